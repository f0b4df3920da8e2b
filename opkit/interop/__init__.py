from .flax_modules import ChannelsLast as ChannelsLast
from .flax_modules import LinenFunction as LinenFunction
from .flax_modules import NNXFunction as NNXFunction
from .neuraloperator import exact_gelu as exact_gelu
from .neuraloperator import read_neuraloperator as read_neuraloperator
from .program import Program as Program
from .program import export_program as export_program
from .program import load_program as load_program
