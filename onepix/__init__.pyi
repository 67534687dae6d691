from onepix.networks.classifier import Classifier as Classifier
from onepix.notebook import attack as attack
from onepix.notebook import scan as scan

__version__: str
