"""Statistics of a study: records -> arrays -> estimates, each with its interval.

The modules, each of which may import those above it:
    results        the dataclasses of a report
    table          records as arrays; what is left out of them
    multiple       Holm's correction
    crossed        variance and intervals where raters and prompts are both samples; the bootstrap
    ranks          rank correlations
    agreement      Krippendorff's alpha
    bradley_terry  a scale of strengths from pairs, with ties
    power          ratings that would settle a difference
    scales         means, medians, differences of systems
    ordered        the cumulative-link model (statsmodels)
    raters         consistency, checks, time, outlying raters
    metrics        rank correlations with automatic metrics
    analysis       records -> results
"""
