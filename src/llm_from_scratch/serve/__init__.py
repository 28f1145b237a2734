"""Serving: HTTP requests -> one model, many texts at once -> streams of text.

A module imports only those above it:

    slots       keys and values of texts of different lengths, side by side
    prefixes    keys and values of prompts that were read before
    requests    one text: its settings, its generator, its stop strings, what was written
    engine      continuous batching: texts join and leave at any step
    metrics     figures for Prometheus
    answers     the shapes of OpenAI's answers and errors
    protocol    what a client sends, checked -> requests of the engine
    follow      rows, samples and state of a run, as a training writes them
    feeds       events of runs that are followed, one look at a folder for all
    service     models by name; the way of one request through the engine
    updates     models of runs that are followed, as they become better
    static      the files of pages
    responses   JSON, errors, files and streams as responses
    inside      the logit lens after a token, and what heads attend to
    playground  the routes of the playground
    limits      host, origin, token, sizes and times; the log of requests
    api         the HTTP routes
    server      sockets and connections, by uvicorn
"""
