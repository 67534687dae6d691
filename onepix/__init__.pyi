from onepix.library import attack as attack
from onepix.library import scan as scan
from onepix.models.classifier import Classifier as Classifier

__version__: str
