from .method import FreeTumor as FreeTumor
