"""Piccolo's configuration, under the name and in the place where it looks for it."""

from piccolo.conf.apps import AppRegistry

from shared.database.engine import DB as ENGINE

DB = ENGINE
APP_REGISTRY = AppRegistry(apps=["shared.database.piccolo_app"])
