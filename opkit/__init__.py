from .origin import __version__ as __version__
