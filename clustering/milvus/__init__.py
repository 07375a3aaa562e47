"""The only room that knows Milvus, from the server up.

- ``embedded`` runs Milvus Lite for a run without a server; ``endpoint`` says where the server is and connects to it.
- ``channel`` sends requests, ``protocol`` fills and reads them a column at a time, ``retry`` repeats the failed ones.
- ``collection`` makes, checks, releases and drops a run's collection.
- ``loader`` inserts vectors, ``bulk`` has the server import them from files, ``index`` makes them searchable.
- ``audit`` compares the collection with vectors/; ``query`` asks it for neighbors.
"""
