from .integrator import Integrator as Integrator
from .regularise import GlobalPenalty as GlobalPenalty
from .regularise import LocalPenalty as LocalPenalty
from .regularise import Regularised as Regularised
from .regularise import Regulariser as Regulariser
from .regularise import regularised_solve as regularised_solve
