"""Looking inside a model: pure functions of a model and ids, then their figures and tables.

A module imports only those above it:

    distribution  the next token, before and after the settings of sampling
    attention     the weights of each layer and head
    trace         one pass: every tensor's shape, mean, deviation; the residual stream
    lens          the logit lens: what each layer would say next; surprise and entropy
    heads         what each head attends to on average; the score of induction heads
    neighbours    the nearest embeddings of a token
    explanation   a text and a model -> an `Explanation`, and its JSON
    figures       an `Explanation` -> pictures
    report        an `Explanation` -> the terminal, a page
"""
