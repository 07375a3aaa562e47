"""GraphHDBSCAN, a scikit-learn clusterer that needs neither Ray nor Milvus: vectors or neighbor lists in, clusters out.

graph_hdbscan : the clusterer; inspection : what a fitted one tells on demand; parameters, inputs : what it accepts;
search : nearest rows of vectors; plain : the exact forest of plain HDBSCAN
"""
