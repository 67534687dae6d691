from onepix.networks.classifier import Classifier as Classifier
from onepix.notebook import attack as attack
from onepix.notebook import bundled_images as bundled_images
from onepix.notebook import bundled_network as bundled_network
from onepix.notebook import load_network as load_network
from onepix.notebook import scan as scan

__version__: str
