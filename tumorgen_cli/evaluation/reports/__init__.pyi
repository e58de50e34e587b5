from .one_set import write_page as write_page
