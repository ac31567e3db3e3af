"""streambn inside other libraries: one module a host, on the host's own terms.

An adapter imports its host and the public names of `streambn`, nothing else.
"""
