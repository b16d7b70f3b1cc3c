"""Where the checkout lies; every test that reads a file of it asks here."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
