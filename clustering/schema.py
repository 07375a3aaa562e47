"""Columns, dtypes and units of every artefact in a run directory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

Figures = dict[str, Any]

# read: one row for each family of texts that nearly agree, with the text of its leader; and one for each input record
TEXTS = pa.schema([("row", pa.int64()), ("text", pa.string()), ("copies", pa.int32())])
# A part of texts/ with a text that was cleaned also has this column: the original text, null where unchanged.
SHOWN = pa.field("shown", pa.string())
# members/ also has the carried columns: time (timestamp in UTC), source, link, and those of read.keep. They and text_id
# have the types of the input; text_id is a string when no column gives it. text is null where it is that of the row.
MEMBERS = pa.schema([("text_id", pa.string()), ("row", pa.int64()), ("text", pa.string())])
# report: families.parquet has a line for each row with several records. Ids have the type of those of members/. Without
# read.source_column there are no sources, without read.time_column no times. Records with the same time, or with
# none, stand in the order of the input.
FAMILIES = pa.schema(
    [
        ("family", pa.int64()),  # the row
        ("leader", pa.string()),  # the text of the row as it is shown
        ("records", pa.int64()),
        ("texts", pa.int64()),  # different texts among them
        ("members", pa.list_(pa.string())),  # text_ids
        ("sources", pa.list_(pa.string())),  # each once, by their first record's time
        ("first_seen", pa.timestamp("us", "UTC")),
        ("last_seen", pa.timestamp("us", "UTC")),
        ("sources_seen", pa.list_(pa.timestamp("us", "UTC"))),  # of each source the first time, null for none
    ]
)
# search: nearest other texts, ascending by (distance, row); the text itself is never among them
NEIGHBORS = pa.schema(
    [
        ("row", pa.int64()),
        ("neighbors", pa.list_(pa.int64())),
        ("distances", pa.list_(pa.float32())),
        ("cell", pa.int32()),  # partition of the vectors; near partitions have near numbers; -1 for none
    ]
)
# forest: minimum spanning forest of mutual reachability, ascending by (distance, left, right)
FOREST = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("distance", pa.float32())])
# cluster: the condensed tree in hdbscan's numbering (children below n_texts are rows; lambda = 1 / distance)
TREE = pa.schema([("parent", pa.int64()), ("child", pa.int64()), ("lambda", pa.float64()), ("size", pa.int64())])
# cluster: one row for each distinct text, joined with members/ and coords/ into labels.parquet
ASSIGNMENT = pa.schema(
    [
        ("row", pa.int64()),
        ("label", pa.int32()),  # -1 is noise
        ("strength", pa.float32()),  # 0 to 1
        ("layers", pa.list_(pa.int32())),  # the cluster in each layer, broadest first; one of them is label
        ("outlier_score", pa.float32()),  # GLOSH, 0 to 1
        ("home", pa.int32()),  # the cluster that a noise text meets first; equals label otherwise; -1 without clusters
        ("home_strength", pa.float32()),  # 1 for members, falls with the height at which a noise text joined
    ]
)
COORDS = pa.schema([("row", pa.int64()), ("x", pa.float32()), ("y", pa.float32())])
LABELS = pa.schema(
    [
        ("text_id", pa.string()),  # has the type of the input
        ("text", pa.string()),  # the record's own
        ("label", pa.int32()),
        ("title", pa.string()),  # of the label; null for noise
        ("theme", pa.string()),  # title of the cluster in the broadest layer; null for none
        ("strength", pa.float32()),
        ("layers", pa.list_(pa.int32())),
        ("outlier_score", pa.float32()),
        ("home", pa.int32()),
        ("home_strength", pa.float32()),
        ("x", pa.float32()),
        ("y", pa.float32()),
        ("family", pa.int64()),  # the row of the record's text; near-duplicates share it
    ]
)
# Names of columns of members/ or labels.parquet; a carried column with such a name is renamed input_<name>.
RESERVED = frozenset([*LABELS.names, "row", "time", "source", "link", "text", "title", "theme"])
# Columns of records/ besides those of the input; the prefix keeps their names apart.
POSITION, LOCATION, DIGEST, ID_DIGEST = "covey:place", "covey:where", "covey:digest", "covey:id_digest"
ORIGINAL, VECTOR = "covey:original", "covey:vector"
NUMBERING_COLUMNS = (POSITION, DIGEST, ID_DIGEST)  # the columns that the numbering of rows needs
WORKING_COLUMNS = (POSITION, LOCATION, DIGEST, ID_DIGEST, ORIGINAL, VECTOR)
# describe: the clusters of all layers, at the place of their labels; those of column label come first
LAYERS = pa.schema(
    [
        ("label", pa.int32()),
        ("title", pa.string()),  # no two of a layer are equal
        ("size", pa.int64()),  # records
        ("texts", pa.int64()),  # distinct texts
        # Of the links of its texts to their 10 nearest texts (or as many as it has others), those that stay inside:
        # 0 to 1, null for a text alone.
        ("link_share", pa.float32()),
        ("terms", pa.list_(pa.string())),  # words and phrases of up to three words, strongest first
        ("exemplars", pa.list_(pa.string())),  # members of high strength, of its parts, that differ in their words
        ("parent", pa.int32()),  # label of the cluster around it in a broader layer; null where there is none
        ("layers", pa.list_(pa.int32())),  # positions of this cluster in the layers of labels
        ("persistence", pa.float32()),  # 0 to 1
    ]
)
# report: those of column label alone, also as clusters.csv
CLUSTERS = pa.schema(
    [
        *[LAYERS.field(name) for name in ("label", "title")],
        ("theme", pa.string()),  # as in labels.parquet
        ("size", pa.int64()),
        ("share", pa.float32()),  # of all records
        *[LAYERS.field(name) for name in ("texts", "link_share", "terms", "exemplars", "parent")],
    ]
)


def vectors_schema(dim: int) -> pa.Schema:
    """The schema of vectors/: row, and a float32 vector of unit length, or of zeros for a text without a vector."""
    return pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])


def labels_schema(members: pa.Schema, uuids: bool = False) -> pa.Schema:
    """The schema of labels.parquet: LABELS with the type of text_id of ``members``, and the carried columns.

    uuids : the ids were of Parquet's type UUID, which are strings in ``members``
    """
    carried = [field for field in members if field.name not in MEMBERS.names]
    text_id = pa.field("text_id", pa.uuid()) if uuids else members.field("text_id")
    return pa.schema([text_id, *list(LABELS)[1:], *carried])
