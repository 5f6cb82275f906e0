"""The three forms of ``torch.save``, read as data; its zip form, written.

From the bottom: `zip` and `pickle` read two containers strictly, `objects` says what the names in torch's pickles
mean, and `zip_form`, `legacy_form` and `tar_form` each read one form. `write` makes a file in the zip form.
"""
