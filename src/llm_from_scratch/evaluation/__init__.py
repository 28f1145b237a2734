"""Evaluation of runs from their run folders. Each module may import those above it.

Scoring:
    intervals      intervals of ratios and means by bootstrap, Wilson's of a share
    scoring        nats of each token of a text, a chunk of logits at a time; ensembles
    pairs          minimal pairs: bias.csv, grammar.jsonl, CrowS-Pairs and BLiMP files
    results        the typed results, and their JSON
    texts          the text that is scored, its units, figures from nats and bytes
    likelihood     a run over a whole text: figures, loss by position, worst and best passages

Baselines, on the same bytes:
    ngram          uniform, unigram, Kneser-Ney over any ids
    compression    zlib, bz2, lzma, PPM, primed with the training part
    baselines      rows of both, and the article's own figures
    references     models of transformers: a baseline, BERTScore, entailment

Generated text:
    style          lengths, function words, punctuation, Burrows's Delta
    overlap        against the true text, itself, the training text
    answer_metrics  accuracy, F1, exact match, ROUGE-L of answers; baselines
    faithfulness   names, genders and relations of the prompt; of unknown validity
    continuations  held-out passages continued, and their metrics
    answers        held-out questions answered, and their metrics

Told stories:
    options        the options of the choices of a story, scored
    tales          a run beside the process that tells its stories

Together:
    harness        a run as a model of lm-eval
    measure        run folders -> an `Evaluation`
    figures        an `Evaluation` -> PNG files
    tales_report   runs on told stories -> blocks of a page
    answer_report  answers to questions -> blocks of a page
    report         an `Evaluation` -> the terminal, report.md, report.html
    comparison     runs, sweeps -> a `Comparison`: settings beside results, which mattered
    scaling        runs of several sizes and amounts of text -> a `Scaling`: the fitted law
    scaling_report  a `Scaling` -> tables, a figure, a page
    comparison_report  a `Comparison` -> tables, figures, a page; the end of a sweep
"""
