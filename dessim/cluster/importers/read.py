"""Reads the text or XML of a file that another program wrote. A mistake is one line that names the file.

XML is parsed by defusedxml, which refuses documents that expand to gigabytes or refer to other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from dessim import files
from dessim.errors import ClusterError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_BYTES = 256 << 20
"""ibnetdiscover writes about 200 bytes per cable, so a fabric of a million cables fits."""


def read_text(path: Path) -> str:
    """Return the text of a file, whose lines end in \\n. Raises ClusterError."""
    return files.read_text(path, ClusterError, MAX_BYTES).replace("\r\n", "\n").replace("\r", "\n")


def parse_xml(path: Path, text: str) -> Element:
    """Return the root of an XML document. Raises ClusterError, also for entities and references to other files."""
    try:
        root: Element = fromstring(text.encode(), forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except DefusedXmlException as error:
        kind = type(error).__name__
        raise ClusterError(path, "", f"refused: declares entities or refers to other files ({kind})") from None
    except ParseError as error:
        raise ClusterError(path, "", f"not XML: {error}") from None
    except (ValueError, LookupError) as error:  # an encoding that does not exist, or does not fit
        raise ClusterError(path, "", f"not XML: {error}") from None
    return root
