from .diffusion_unet import PlaneUNet as PlaneUNet
from .efficientnet import lite0_model as lite0_model
from .flow_unet import FlowUNet as FlowUNet
from .mask_refiner import MaskRefiner as MaskRefiner
from .tumor_generator import TumorGenerator as TumorGenerator
from .unet import make_unet as make_unet
from .vae import KlVae as KlVae
from .vqgan import VqGan as VqGan
