"""The page is made once for all tests."""
import re

import pytest

from reading import make


@pytest.fixture(scope="package")
def edition():
    """A Page, and what it is as a string, `edition.html`."""
    edition = make.Page()
    edition.html = str(edition)
    return edition


@pytest.fixture(scope="package")
def page(edition):
    return edition.html


@pytest.fixture(scope="package")
def sections(page):
    """The HTML of each function, by its name."""
    return dict(re.findall(r'<section class="row" id="([\w.]+)">(.*?)</section>', page, re.DOTALL))
