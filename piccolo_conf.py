"""Piccolo's configuration. Piccolo requires this file name, and this place."""

from piccolo.conf.apps import AppRegistry

from shared.database.engine import DB as ENGINE

DB = ENGINE
APP_REGISTRY = AppRegistry(apps=["shared.database.piccolo_app"])
