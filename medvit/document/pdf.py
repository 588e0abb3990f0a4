"""Notation of documents as PDF, by WeasyPrint, which `pip install medvit[pdf]` installs."""

from __future__ import annotations

from types import ModuleType

from medvit.errors import ConfigError


def require_pdf() -> ModuleType:
    """Return WeasyPrint.

    Raises:
        ConfigError: If WeasyPrint or one of the system libraries that it needs is not installed.
    """
    from PIL import ImageFile

    accepts_truncated = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint
    except ImportError:
        raise ConfigError(
            "pdf=true needs WeasyPrint, which is not installed; install it by `pip install medvit[pdf]`, or print "
            "report.html from a browser"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"pdf=true needs the library Pango, which cannot be loaded ({error}); install it (on Debian: `apt install "
            "libpangoft2-1.0-0`), or print report.html from a browser"
        ) from None
    finally:  # WeasyPrint sets this for the whole process, in which readers must refuse truncated images
        ImageFile.LOAD_TRUNCATED_IMAGES = accepts_truncated
    return weasyprint


def rendered_pdf(page: str) -> bytes:
    """Return a page of HTML as a PDF; the page may contain data but cannot load anything.

    Raises:
        ConfigError: As in `require_pdf`.
    """
    weasyprint = require_pdf()
    fetcher = weasyprint.URLFetcher(allowed_protocols=["data"])
    return bytes(weasyprint.HTML(string=page, url_fetcher=fetcher).write_pdf())
