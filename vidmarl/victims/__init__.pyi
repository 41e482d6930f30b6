from .cards import Card as Card
from .loading import list_victims as list_victims
from .loading import load_victim as load_victim
from .loading import ships as ships
from .loading import victim_card as victim_card
from .victim import Victim as Victim
