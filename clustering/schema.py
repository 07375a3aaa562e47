"""Columns, dtypes and units of every artefact in a run directory."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

Figures = dict[str, Any]

# read: one line for each distinct text, and one for each input record
TEXTS = pa.schema([("row", pa.int64()), ("text", pa.string()), ("copies", pa.int32())])
# A part of texts/ in which read.clean has changed a text has this, too: the text as it was, null where it is the same.
SHOWN = pa.field("shown", pa.string())
# And what is carried: time (timestamp in UTC), source, link, the columns of read.keep. text_id and these have the types
# of the input; text_id is a string where no column gives one.
MEMBERS = pa.schema([("text_id", pa.string()), ("row", pa.int64())])
# search: nearest other texts, ascending by (distance, row); the text itself is never among them
NEIGHBORS = pa.schema(
    [
        ("row", pa.int64()),
        ("neighbors", pa.list_(pa.int64())),
        ("distances", pa.list_(pa.float32())),
        ("cell", pa.int32()),  # coarse region of the vectors; near cells have near numbers; -1 for none
    ]
)
# forest: minimum spanning forest of mutual reachability, ascending by (distance, left, right)
FOREST = pa.schema([("left", pa.int64()), ("right", pa.int64()), ("distance", pa.float32())])
# cluster: the condensed tree in hdbscan's numbering (children below n_texts are rows; lambda = 1 / distance)
TREE = pa.schema([("parent", pa.int64()), ("child", pa.int64()), ("lambda", pa.float64()), ("size", pa.int64())])
# cluster: one line for each distinct text, joined with members/ and coords/ into labels.parquet
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
        ("text_id", pa.string()),
        ("label", pa.int32()),
        ("strength", pa.float32()),
        ("layers", pa.list_(pa.int32())),
        ("outlier_score", pa.float32()),
        ("home", pa.int32()),
        ("home_strength", pa.float32()),
        ("x", pa.float32()),
        ("y", pa.float32()),
    ]
)
# Names with one meaning in members/ or labels.parquet: a carried column of such a name comes out as input_<name>.
RESERVED = frozenset([*LABELS.names, "row", "time", "source", "link", "text", "title", "theme"])
# Columns of records/ besides the input's own, which are named as they please, but hardly so.
POSITION, LOCATION, DIGEST, ID_DIGEST = "covey:place", "covey:where", "covey:digest", "covey:id_digest"
ORIGINAL, VECTOR = "covey:original", "covey:vector"
NUMBERING_COLUMNS = (POSITION, DIGEST, ID_DIGEST)  # all that it takes to number the rows
WORKING_COLUMNS = (POSITION, LOCATION, DIGEST, ID_DIGEST, ORIGINAL, VECTOR)
CLUSTERS = pa.schema(
    [
        ("label", pa.int32()),
        ("size", pa.int64()),  # records
        ("texts", pa.int64()),  # distinct texts
        ("title", pa.string()),
        ("terms", pa.list_(pa.string())),  # c-TF-IDF, strongest first
        ("exemplars", pa.list_(pa.string())),  # members of the highest strength
        ("persistence", pa.float32()),  # 0 to 1
        ("parent", pa.int32()),  # label of the cluster around it in a broader layer; null where there is none
        ("layers", pa.list_(pa.int32())),  # places in labels' layers where this cluster stands
    ]
)


def vectors_schema(dim: int) -> pa.Schema:
    """vectors/: row, and a float32 vector of unit length; all zeros for a text that has none."""
    return pa.schema([("row", pa.int64()), ("vector", pa.list_(pa.float32(), dim))])


def labels_schema(members: pa.Schema) -> pa.Schema:
    """labels.parquet of records with these members: LABELS with their type of text_id, and the carried columns."""
    carried = [field for field in members if field.name not in MEMBERS.names]
    return pa.schema([members.field("text_id"), *list(LABELS)[1:], *carried])
