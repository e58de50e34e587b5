from .boxes import draw_box as draw_box
from .boxes import latent_box as latent_box
from .boxes import place_box as place_box
from .masks import draw_mask as draw_mask
from .noise import draw_scan_noise as draw_scan_noise
from .removal import remove_tumors as remove_tumors
