"""What an exported model consists of, beside the model: the files here are copied as they are.

They know nothing of Tunemesh. ``tuned_model.py`` is also what runs a result here: there is no second way.
"""
