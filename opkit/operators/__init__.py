from .fno import FNO as FNO
from .fno import FNOBlock as FNOBlock
from .resnet import ResNet as ResNet
from .resnet import ResNetBlock as ResNetBlock
from .symmetrised import Symmetrised as Symmetrised
from .transform_once import TransformOnce as TransformOnce
