"""Weight files: torch's three forms and safetensors, read as data; and torch's zip form, written.

From the bottom: `source` (bytes and the memory budget), `zip_container` and `pickle_machine` (two formats, read
strictly), `torch_objects` (what the names in torch's pickles mean), one module a form, `arrays`, `entries`, `read`; and
`write`.
"""
