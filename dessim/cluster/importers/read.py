"""Reads the text or XML of a file that another program wrote. A mistake is one line that names the file.

XML is parsed by defusedxml, which refuses documents that expand to gigabytes or refer to other files.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from dessim.errors import ClusterError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MAX_BYTES = 256 << 20
"""ibnetdiscover writes about 200 bytes per cable, so a fabric of a million cables fits."""


def read_text(path: Path) -> str:
    """Return the text of a file. Raises ClusterError."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ClusterError(path, "", f"is larger than {MAX_BYTES >> 20} MiB, so it describes no cluster")
        return path.read_text("utf-8")
    except UnicodeDecodeError:
        raise ClusterError(path, "", "is not a UTF-8 text file") from None
    except OSError as error:
        raise ClusterError(path, "", f"cannot be read: {error.strerror}") from None


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
