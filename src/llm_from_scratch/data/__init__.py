"""From files to batches, once for every text.

The modules stand in the order of the text's way; each may import those above it.

Files and their documents:
    formats      the kinds of file, known by their names
    streams      the bytes of a file: held against a checksum, expanded within bounds
    archives     the members of a tar
    tables       the rows of JSON, CSV, TSV and parquet
    readers      one file -> its documents
    folders      the files below a folder, or of a glob
    downloads    files of published corpora, brought whole or not at all
    sources      the files of a corpus: the user's own, a named corpus, Python's library

Documents and their text:
    clean        bytes -> text, every change counted
    quality      rules that a document passes or not; its language
    duplicates   documents that are alike
    long_texts   a document that is longer than the memory should be, in pieces
    documents    the documents of a task: cleaned, kept or removed; the split of each

Preparation, once:
    shards       token ids in memory-mapped files with an index
    tasks        a part of a corpus -> its shards
    corpus       the text and the settings that make one preparation; the name of its folder
    learning     the text that a tokenizer learns from
    sampler      the chunk of each step
    prepared     a prepared text as it lies on the disk
    report       what was kept and removed, with examples
    manifest     the last step: counts, checksums, the rename
    workers      the processes that make the tasks
    prepare      all of this, from the settings to the prepared text
    inspection   a look at a prepared text

"""
