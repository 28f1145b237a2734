"""Data preparation: from text files to batches of token ids; each text is prepared once.

The modules stand in the order of the data flow; each may import those above it.

Files and their documents:
    formats      the kinds of file, recognized by their names
    streams      the bytes of a file: checked against a checksum, decompressed within bounds
    archives     the members of a tar
    tables       the rows of JSON, CSV, TSV and parquet
    readers      one file -> its documents
    folders      the files below a folder, or of a glob
    downloads    files of published corpora, downloaded whole or not at all
    choices      reproducible random choices for made texts
    reviews      made reviews, positive or negative
    passages     made passages with a question and its answer
    news         made news with a summary
    made         made conversations: the three above, and questions on the Oz book
    told         told stories as files
    sources      the files of a corpus: the user's own, a named corpus, Python's library

Documents and their text:
    clean        bytes -> text, every change counted
    quality      quality filters for documents; their language
    duplicates   exact and near duplicates among documents
    long_texts   long documents, processed in pieces to bound the memory
    documents    the documents of a task: cleaned, kept or removed; the split of each
    conversations  rows of messages, of prompts and answers -> ids, and which are learned

Preparation, once:
    shards       token ids in memory-mapped files with an index
    tasks        a part of a corpus -> its shards
    corpus       the files and the settings of one preparation; the name of its folder
    learning     the text that a tokenizer learns from
    sampler      the batches of each optimizer step
    fresh        stories that are told for every step
    packing      conversations packed into rows; their batches
    preferences  pairs of answers: the batches of each step, the held-out pairs
    prepared     a prepared text on disk
    report       the documents kept and removed, with examples
    manifest     the last step: counts, checksums, the rename
    chats        conversations, from their files to the prepared folder
    locks        one process prepares a text; the others wait, or are refused
    workers      the processes that make the shards of the tasks
    prepare      all of this, from the settings to the prepared text
    inspection   statistics of a prepared text

"""
