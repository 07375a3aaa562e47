"""Where texts come from: files of many formats, or a collection; distinct texts and their records out.

One file, from its path to rows:
1. ``files`` resolves read.paths to an ``InputFile``: location, format and compression, by name and first bytes.
2. ``layout`` reads its head: dialect or JSON style, and where the wanted columns are; ``detection`` checks all files.
3. ``opening`` unpacks its bytes, and ``batches`` has the module of its format make tables of the wanted columns.
4. ``records`` cleans the texts and writes them to records/ with their digests.
5. ``deduplication`` gives each distinct text a row, and writes texts/ and members/.
"""
