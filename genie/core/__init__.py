"""Code shared by all rooms: errors, seeding, table schemas, and the device that models run on.

`errors` defines the errors that users see. `seeding` derives the seed of every random draw from a
key. `tables` defines the schemas of all tables, and reads and writes them. `device` imports torch,
so only modules that run models import it. `progress` defines the callbacks of long loops.
"""
