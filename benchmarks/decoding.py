"""Decoding beside nanoGPT's `generate` and Hugging Face's with its cache: tokens a second of 256
new tokens after a prompt of one.

All have the same shape (GPT-2's architecture; 6 layers, width 384, 6 heads, T=256, float32 unless
told) with new weights, the same temperature and no filter, and never stop early. Ours is what
generate.py runs: `lay_out`, then `to_host` around `generate_tokens`, every token read on the
host. --compile adds rows with that setting. One call before the measurements warms each up; of ours
it is timed on a GPU, up to its first token and to its end.

    python benchmarks/decoding.py                                        batch 1, one and two threads: a minute on two cores
    python benchmarks/decoding.py --nanogpt PATH --batches 1 8 64        some minutes
    python benchmarks/decoding.py --gpt2 --device cuda --batches 1 64    GPT-2 124M, T=1024, bfloat16

nanoGPT reads the whole text again for every token: it is measured at the batches of
--nanogpt-batches alone.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _huggingface import gpt2
from _nanogpt import load_module
from _record import check_nanogpt, median, record, take_turns
from _record import options as common_options

SMALL = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 256, "vocab_size": 65}
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257}
TEMPERATURE = 0.8


def writers(
    shape: dict[str, int], dtype: str, device: str, clone: Path | None, settings: list[str]
) -> dict[str, Callable[[int, int], Any]]:
    """Returns each contender's function: (batch size, new tokens) -> ids (batch, new tokens)."""
    import torch

    from llm_from_scratch.config import SamplingConfig
    from llm_from_scratch.decoding_linears import lay_out
    from llm_from_scratch.generation import generate_tokens, to_host
    from llm_from_scratch.model import GPT, GPTConfig

    family = {"norm": "layernorm", "position": "learned", "activation": "gelu", "qk_norm": False, "bias": True}
    place = {"device": device, "dtype": getattr(torch, dtype)}
    ours = GPT(GPTConfig(**shape, **family, norm_eps=1e-5, init_std=0.02)).to(**place).eval()
    lay_out(ours, dtype)  # split for torch's current number of threads
    theirs = gpt2(**shape).to(**place).eval()

    def prompt(batch: int) -> torch.Tensor:
        return torch.zeros(batch, 1, dtype=torch.int64, device=device)

    def writer(compiled: bool | str) -> Callable[[int, int], torch.Tensor]:
        def write(batch: int, new_tokens: int) -> torch.Tensor:
            config = SamplingConfig(
                max_new_tokens=new_tokens, temperature=TEMPERATURE, num_samples=batch, compile=compiled
            )
            start = time.perf_counter()
            tokens = to_host(generate_tokens(ours, prompt(1), config))
            ids = [next(tokens)]
            write.first_token = time.perf_counter() - start  # type: ignore[attr-defined]
            return torch.tensor(ids + list(tokens)).T

        return write

    @torch.inference_mode()
    def write_theirs(batch: int, new_tokens: int) -> torch.Tensor:
        length = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens}
        sampling = {"do_sample": True, "temperature": TEMPERATURE, "top_k": 0, "top_p": 1.0}
        ids = prompt(batch)
        found = theirs.generate(ids, attention_mask=torch.ones_like(ids), use_cache=True, **length, **sampling)
        return found[:, 1:].cpu()

    found = {"generate_tokens": writer("auto"), "Hugging Face": write_theirs}
    found |= {f"generate_tokens, compile={name}": writer(name == "true") for name in settings}
    if clone:
        module = load_module(clone)
        nano = module.GPT(module.GPTConfig(**shape, dropout=0.0, bias=True)).to(**place).eval()
        found["nanoGPT"] = lambda batch, new_tokens: nano.generate(prompt(batch), new_tokens, TEMPERATURE)[:, 1:].cpu()
    return found


def main() -> None:
    """Measures each combination of threads and batch size, and records the rows."""
    parser = common_options(__doc__, repeats=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1], metavar="B", help="batch sizes (default: 1)")
    parser.add_argument("--nanogpt-batches", type=int, nargs="+", default=[1], metavar="B", help="default: 1")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], metavar="N", help="on a CPU (default: 1 2)")
    parser.add_argument("--new-tokens", type=int, default=256, metavar="N", help="a sample (default: 256)")
    parser.add_argument("--compile", choices=("false", "true"), nargs="+", default=[], help="further rows of ours")
    parser.add_argument("--gpt2", action="store_true", help="GPT-2 124M instead of the 6-layer model")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: bfloat16 on a GPU, else float32")
    for name, value in SMALL.items():
        help_text = f"default: {value}, with --gpt2 {GPT2[name]}"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=help_text)
    options = parser.parse_args()
    shape = {name: getattr(options, name) or value for name, value in (GPT2 if options.gpt2 else SMALL).items()}
    if options.new_tokens > shape["block_size"]:
        parser.error(f"--new-tokens {options.new_tokens} exceeds the context of {shape['block_size']} tokens")
    clone = check_nanogpt(parser, options.nanogpt)
    dtype = options.dtype or ("bfloat16" if options.device == "cuda" else "float32")

    import torch

    rows = []
    for threads in options.threads if options.device == "cpu" else [None]:
        if threads:
            torch.set_num_threads(threads)
        known = writers(shape, dtype, options.device, clone, options.compile)
        for batch in options.batches:
            present = {
                name: one for name, one in known.items() if name != "nanoGPT" or batch in options.nanogpt_batches
            }

            def speed(write: Callable[[int, int], Any], batch: int = batch) -> float:
                start = time.perf_counter()
                ids = write(batch, options.new_tokens)
                seconds = time.perf_counter() - start
                assert ids.shape == (batch, options.new_tokens)
                return batch * options.new_tokens / seconds

            first: dict[str, tuple[float, float]] = {}
            for name, write in present.items():
                if options.device == "cuda" and name.startswith("generate_tokens"):
                    start = time.perf_counter()
                    write(batch, options.new_tokens)
                    first[name] = write.first_token, time.perf_counter() - start  # type: ignore[attr-defined]
                else:
                    write(batch, min(8, options.new_tokens))
            speeds = take_turns(
                {name: (lambda write=write, speed=speed: speed(write)) for name, write in present.items()},
                options.repeats,
            )
            rates = {name: median(values) for name, values in speeds.items()}
            rows += [
                {
                    "writer": name,
                    "batch": batch,
                    "threads": threads,
                    "tokens/s": rate,
                    "to nanoGPT": rate / rates["nanoGPT"] if "nanoGPT" in rates else None,
                    "to Hugging Face": rate / rates["Hugging Face"],
                    "first token s": first.get(name, (None, None))[0],
                    "first text s": first.get(name, (None, None))[1],
                }
                for name, rate in rates.items()
            ]
    shared = {
        "shape": f"{shape['n_layer']} x {shape['n_embd']}, T={shape['block_size']}",
        "new tokens": options.new_tokens,
        "device": options.device,
        "dtype": dtype,
        "repeats": options.repeats,
    }
    record("decoding", rows, options.results, shared)


if __name__ == "__main__":
    main()
