"""Texts in, vectors out: the encoders, how they are loaded, and what decides the vectors that they make.

To add an encoder:

1. Write a module here with a class. An encoder with a tokenizer.json extends ``base.TokenizerEncoder`` and makes the
   vectors of a batch of tokens in ``encode_batch``; ``minilm.py`` is a short example. Any other satisfies
   ``base.Encoder``. Import heavy packages inside ``__init__``, so that only its users need them.
2. In ``loading.py``, add the class to ``CLASSES``, and let ``check_encoder`` return its dimension or say what is
   missing. Add it to ``ENGLISH_ENCODERS`` if it reads English alone.
3. In ``config/sections.py``, add its name to ``ENCODERS``, with the packages that decide its vectors. A run embeds anew
   when one of them changes.

Add the class to ``tests/unit/encoders/test_encoders.py``. A sentence-transformers model needs no code:
``embed.encoder`` names it.
"""
