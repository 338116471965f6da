"""Shared by all rooms: errors, seeding, table schemas, and the device that models run on.

`errors` defines the errors that users see. `seeding` seeds every random draw with a key. `tables`
defines the schemas of all tables, and reads and writes them. `device` imports torch, so only
modules that run models import it. `progress` defines the callbacks of long loops.
"""
