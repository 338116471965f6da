"""What every room uses: errors, seeding, the schemas of tables, and the device that models run on.

`errors` has the errors for users. `seeding` draws random numbers keyed by what they are for.
`tables` has the schemas of all tables and reads and writes them. `device` imports torch and is
imported only where models run. `progress` has the types of what shows progress.
"""
