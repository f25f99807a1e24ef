"""A page and a JSON API that search indexes; needs the extra `serve`."""

from miniclip.deploy.server.app import create_app
from miniclip.deploy.server.guard import Access, Limits
from miniclip.deploy.server.running import is_loopback, listen, serve
from miniclip.deploy.server.searcher import Searcher

__all__ = ["Access", "Limits", "Searcher", "create_app", "is_loopback", "listen", "serve"]
