"""What can be taken home of a run, one file for each; `jobs` makes them in the background.

source.py is what is taken, card.py tells of it, places.py is where it goes, check.py tries it.
"""

from lab.services.export.adapter import adapter_zip, zip_name
from lab.services.export.card import card
from lab.services.export.source import Judged

__all__ = ["Judged", "adapter_zip", "card", "zip_name"]
