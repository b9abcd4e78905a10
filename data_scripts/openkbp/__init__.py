"""OpenKBP as published: read a patient's csv files, check them by anatomy, and divide patients into splits."""
from __future__ import annotations

IMPORTER_VERSION = "2"                     # raise it when the files would change, also by a change of phantom.cbct
