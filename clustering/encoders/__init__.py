"""Texts in, vectors out: the encoders, how they are loaded, and what decides the vectors that they make.

To add an encoder:

1. Write a module here, with a class that satisfies ``base.Encoder``: it takes the section ``embed``, has ``dim``, and
   ``encode(texts)`` returns an ``Encoded``. ``Encoded.of_tokens`` scales the vectors and counts the tokens.
   ``static.py`` is a short example. Import heavy packages inside ``__init__``, so that only its users need them.
2. In ``loading.py``, add the class to ``CLASSES``, and let ``check_encoder`` return its dimension or say what is
   missing. Add it to ``ENGLISH_ENCODERS`` if it reads English alone.
3. In ``config/sections.py``, add its name to ``ENCODERS``, with the packages that decide its vectors. A run embeds anew
   when one of them changes.

The class also goes into the tests of ``tests/unit/test_encoders.py``. A sentence-transformers model needs no code:
``embed.encoder`` names it.
"""
