"""The ablation of chapter 14: its budgets, its learning rates, its table and its figure.

    python train.py sweep=ablation_lr     (three quarters of an hour, two runs at a time)
    python docs/course/figures/14_modern.py --learning-rates outputs/ablation_lr/SWEEP
    python docs/course/figures/14_modern.py --budget 90
    python train.py sweep=ablation        (under two hours, on a machine that does nothing else)
    python docs/course/figures/14_modern.py outputs/ablation/SWEEP

`--learning-rates` writes the best learning rate of each model and text into its file in
configs/experiment/ablation/, `--budget` the optimizer steps that this machine makes in so many
seconds. The last line keeps the results in 14_modern.json, and writes the table into the chapter
and the figure. Without a word they are made again from 14_modern.json.
"""

import argparse
import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import style

HERE = Path(__file__).resolve().parent
CHAPTER, RESULTS = HERE.parent / "14_modern.md", HERE / "14_modern.json"
STEPS = HERE.parents[2] / "configs/experiment/ablation"
BEGIN, END = "<!-- ablation: begin -->", "<!-- ablation: end -->"
TEXTS = {"oz": "Oz", "tales": "told stories"}
SEEDS = 3  # of the whole sweep
NAMES = {
    "00_article": "the article's model",
    "01_heads": "+ several heads",
    "02_layers": "+ three layers",
    "03_pre_norm": "+ pre-norm",
    "04_gelu": "+ GELU",
    "05_rotary": "+ rotary positions",
    "06_rmsnorm": "+ RMSNorm",
    "07_swiglu": "+ SwiGLU",
    "08_qk_norm": "+ q/k norm",
    "09_tied_head": "+ tied head",
    "10_no_biases": "+ no biases",
    "11_muon": "+ Muon",
}
# 0.975 quantiles of Student's t by degrees of freedom; between two of them the wider one is taken.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 6: 2.447, 8: 2.306, 11: 2.201, 16: 2.12, 20: 2.086, 24: 2.064}


@dataclass(frozen=True)
class Run:
    """A finished run of the sweep."""

    text: str
    model: str
    seed: int
    bits_per_byte: float
    steps: int
    seconds: float  # of training, without validations
    parameters: int
    lr: float


@dataclass(frozen=True)
class Mean:
    """A mean over seeds; `half` is half of its interval of 95 %, None of a single seed."""

    value: float
    half: float | None


# ------------------------------------------------------------------------------------- the sweep
def read(sweep: Path) -> list[Run]:
    """Returns the finished runs of a sweep, by text, model and seed."""
    from llm_from_scratch.evaluation.comparison import compare
    from llm_from_scratch.weights import load_model

    found = compare([str(sweep)], score=0, fewest=1)
    drawn = {trial.number: trial.params for trial in found.trials}
    runs = []
    for one in found.runs:
        if one.state != "finished" or one.bits_per_byte is None or one.last_step is None:
            continue
        params = drawn[int(Path(one.run).name)]
        runs.append(
            Run(
                text=params["data"],
                model=params["experiment"].rpartition("/")[2],
                seed=int(one.every["seed"]),
                bits_per_byte=one.bits_per_byte,
                steps=one.last_step,
                seconds=round(one.seconds or 0.0, 1),
                parameters=load_model(Path(one.run)).model.num_parameters(),
                lr=float(one.every["optim.lr"]),
            )
        )
    return sorted(runs, key=lambda run: (run.text, run.model, run.seed))


def command_of(sweep: Path) -> str:
    """Returns the words that started a sweep, without its folder."""
    import yaml

    given = yaml.safe_load((sweep / "multirun.yaml").read_text("utf-8"))["hydra"]["overrides"]["task"]
    return " ".join(["python train.py", *(word for word in given if not word.startswith("run_dir="))])


def planned_steps(model: str, text: str) -> int:
    """Returns the optimizer steps that a model's file has for a text."""
    return int(_values(model, "max_steps")[text])


def _values(model: str, key: str) -> dict[str, str]:
    written = re.search(rf"{key}: \"\$\{{choose:\$\{{data.name\}},\{{(.*?)\}}\}}\"", _file(model).read_text("utf-8"))
    assert written, f"{_file(model)} has no {key}"
    return dict(pair.split(": ") for pair in written[1].split(", "))


def _write_values(model: str, key: str, values: dict[str, str]) -> None:
    before = f'{key}: "${{choose:${{data.name}},{{{_pairs(_values(model, key))}}}}}"'
    after = f'{key}: "${{choose:${{data.name}},{{{_pairs(values)}}}}}"'
    text = _file(model).read_text("utf-8")
    assert before in text
    _file(model).write_text(text.replace(before, after), encoding="utf-8")


def _pairs(values: dict[str, str]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in values.items())


def _file(model: str) -> Path:
    return STEPS / f"{model}.yaml"


# ------------------------------------------------------------------------------------ statistics
def spread(runs: Sequence[Run], text: str) -> tuple[float, int]:
    """Returns the standard deviation over seeds of one text, and its degrees of freedom.

    It is pooled over the models: three seeds of one model alone say little about their spread.
    """
    groups = [_of(runs, text, model) for model in NAMES]
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups if len(group) > 1)
    freedom = sum(len(group) - 1 for group in groups if len(group) > 1)
    return (math.sqrt(squares / freedom) if freedom else math.nan), freedom


def mean(runs: Sequence[Run], text: str, model: str) -> Mean:
    """Returns the mean bits per byte of a model with its interval, from the pooled spread."""
    deviation, freedom = spread(runs, text)
    values = _of(runs, text, model)
    half = student(freedom) * deviation / math.sqrt(len(values)) if freedom else None
    return Mean(statistics.fmean(values), half)


def gain(runs: Sequence[Run], text: str, before: str, after: str) -> Mean:
    """Returns by how much bits per byte fall from one model to the next, with its interval."""
    first, second = mean(runs, text, before), mean(runs, text, after)
    half = None if first.half is None or second.half is None else math.hypot(first.half, second.half)
    return Mean(first.value - second.value, half)


def student(freedom: int) -> float:
    """Returns the 0.975 quantile of Student's t, from `STUDENT`."""
    return STUDENT[max(key for key in STUDENT if key <= freedom)]


def _of(runs: Sequence[Run], text: str, model: str) -> list[float]:
    return [run.bits_per_byte for run in runs if (run.text, run.model) == (text, model)]


# ----------------------------------------------------------------------------- the table, the figure
def table(runs: Sequence[Run], command: str) -> str:
    """Returns the chapter's section: what was run, and a row for each model, in Markdown."""
    texts = [text for text in TEXTS if any(run.text == text for run in runs)]
    models = [model for model in NAMES if all(_of(runs, text, model) for text in texts)]
    head = [
        "step",
        *(f"{TEXTS[text]}: {what}" for text in texts for what in ("parameters", "steps", "bits per byte", "gain")),
    ]
    lines = [said(runs, command), "", _row(head), _row(["---", *["---:"] * (len(head) - 1)])]
    for place, model in enumerate(models):
        cells = [NAMES[model]]
        for text in texts:
            own = [run for run in runs if (run.text, run.model) == (text, model)]
            change = gain(runs, text, models[place - 1], model) if place else None
            cells += [f"{own[0].parameters:,}", f"{own[0].steps:,}", _shown(mean(runs, text, model))]
            cells.append("" if change is None else _shown(change, "+"))
        lines.append(_row(cells))
    return "\n".join(lines)


def said(runs: Sequence[Run], command: str) -> str:
    """Returns the paragraph above the table: the command, the seeds, the seconds of each run."""
    seeds, seconds = len({run.seed for run in runs}), sorted(run.seconds for run in runs)
    short = any(run.steps < planned_steps(run.model, run.text) for run in runs)
    warning = ""
    if is_reduced(runs):
        cut = f"at most {max(run.steps for run in runs)} optimizer steps" if short else "every step"
        warning = (
            f"**A reduced run, to show that the commands work: {cut}, {seeds} seed{'s' * (seeds > 1)}. It says"
            " nothing about the models, whose learning rates and numbers of steps are first guesses until the first two"
            " commands have run.** "
        )
    spreads = ", ".join(
        f"{spread(runs, text)[0]:.4f} on {TEXTS[text]}" for text in TEXTS if not math.isnan(spread(runs, text)[0])
    )
    return (
        f"{warning}`{command}`, then `python docs/course/figures/14_modern.py SWEEP`: {len(runs)} runs of"
        f" {seconds[0]:.0f} to {seconds[-1]:.0f} s of training, {seeds} seed{'s' * (seeds > 1)} each. Lower bits per byte are"
        " better; a gain above 0 is a step that helped."
        + (f" The standard deviation between seeds is {spreads}; intervals are 95 %, from it." if spreads else "")
    )


def is_reduced(runs: Sequence[Run]) -> bool:
    """Returns whether runs are fewer or shorter than those of the whole sweep."""
    complete = len(TEXTS) * len(NAMES) * SEEDS
    return len(runs) < complete or any(run.steps < planned_steps(run.model, run.text) for run in runs)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(one: Mean, sign: str = "") -> str:
    value = f"{one.value:{sign}.4f}".replace("-", "−")
    return value if one.half is None else f"{value} ± {one.half:.4f}"


def fill(section: str) -> None:
    """Writes a section between its two marks in the chapter."""
    text = CHAPTER.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    CHAPTER.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}", encoding="utf-8")


def draw(runs: Sequence[Run]) -> None:
    """Draws bits per byte of every model, a panel for each text, with seeds and intervals."""
    texts = [text for text in TEXTS if any(run.text == text for run in runs)]
    reduced = is_reduced(runs)
    figure, axes = style.new(1, len(texts), width=8.2, height=4.6, sharey=True, squeeze=False)
    panels = axes[0]
    models = [model for model in NAMES if any(run.model == model for run in runs)]
    for axes, text in zip(panels, texts, strict=True):
        for place, model in enumerate(models):
            values = _of(runs, text, model)
            if not values:
                continue
            one = mean(runs, text, model)
            axes.plot(values, [place] * len(values), "o", color=style.ORANGE, markersize=4, alpha=0.7)
            axes.errorbar(one.value, place, xerr=one.half, fmt="D", color=style.BLUE, markersize=6, capsize=3)
        axes.set(title=TEXTS[text], xlabel="bits per byte, held-out text", ylim=(len(models) - 0.5, -0.5))
        if text == "tales" and not reduced:
            from llm_from_scratch import tales

            axes.axvline(tales.entropy(2).bits_per_byte.value, color="black", linestyle=":", label="entropy")
            axes.legend(frameon=False)
    panels[0].set_yticks(range(len(models)), [NAMES[model] for model in models])
    if reduced:
        figure.suptitle("A reduced run: it shows that the commands work, and nothing else", color=style.VERMILION)
    style.save(figure, "14_ablation")


# ----------------------------------------------------------------------- budgets and learning rates
def set_budget(seconds: float, rounds: int = 3) -> None:
    """Writes the optimizer steps of `seconds` into each model's file, as this machine makes them.

    The models take turns, and the quickest of a model's rounds counts: what disturbs this machine
    disturbs all of them.
    """
    times: dict[tuple[str, str], float] = {}
    for _ in range(rounds):
        for model in NAMES:
            for text in TEXTS:
                one = seconds_a_step(model, text)
                times[model, text] = min(one, times.get((model, text), math.inf))
    for model in NAMES:
        steps = {text: str(max(10, round(seconds / times[model, text] / 10) * 10)) for text in TEXTS}
        _write_values(model, "max_steps", steps)
        print(NAMES[model], {text: f"{1000 * times[model, text]:.1f} ms" for text in TEXTS}, steps)


def seconds_a_step(model: str, text: str) -> float:
    """Returns the seconds of an optimizer step on this machine's cores, on random ids."""
    from llm_from_scratch.front.program import checked
    from llm_from_scratch.model import GPTConfig
    from llm_from_scratch.places import config_dir
    from llm_from_scratch.plan.measuring import measure

    config = checked(config_dir(), [f"experiment=ablation/{model}", f"data={text}"])
    shape = GPTConfig(vocab_size=config.tokenizer.vocab_size or 1024, **vars(config.model))
    measured = measure(config, shape, config.data.batch_size, seconds=2.0)
    return measured.seconds_a_sequence * config.data.batch_size + measured.seconds_an_update


def set_learning_rates(sweep: Path) -> None:
    """Writes each model's best learning rate of `sweep=ablation_lr` into its file, by text."""
    runs = read(sweep)
    rates = sorted({run.lr for run in runs})
    for model in NAMES:
        best = {}
        for text in TEXTS:
            tried = [run for run in runs if (run.text, run.model) == (text, model)]
            assert len(tried) == len(rates), f"{model} on {text} was tried {len(tried)} times: let the sweep end first"
            winner = min(tried, key=lambda run: run.bits_per_byte)
            edge = " (the edge of those tried)" * (winner.lr in (rates[0], rates[-1]))
            print(f"{NAMES[model]}, {TEXTS[text]}: {winner.lr:g}{edge}", {run.lr: run.bits_per_byte for run in tried})
            best[text] = f"{winner.lr:.1e}".replace("e-0", "e-")
        _write_values(model, "lr", best)


def main() -> None:
    """Reads the words, and does what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", nargs="?", type=Path, help="the folder of sweep=ablation")
    parser.add_argument("--learning-rates", type=Path, metavar="SWEEP", help="the folder of sweep=ablation_lr")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="of training, for each run")
    options = parser.parse_args()
    if options.learning_rates:
        set_learning_rates(options.learning_rates)
    if options.budget:
        set_budget(options.budget)
    if options.learning_rates or options.budget:
        return
    if options.sweep:
        kept = {"command": command_of(options.sweep), "runs": [asdict(run) for run in read(options.sweep)]}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    kept = json.loads(RESULTS.read_text("utf-8"))
    runs = [Run(**row) for row in kept["runs"]]
    fill(table(runs, kept["command"]))
    draw(runs)


if __name__ == "__main__":
    main()
