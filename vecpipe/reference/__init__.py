"""The generated pages of the documentation: SQL, Python and the command line, written from the code itself.

``python -m vecpipe.reference`` writes all of them into ``docs``; ``python -m vecpipe.reference docs/reference.md`` one.
"""
