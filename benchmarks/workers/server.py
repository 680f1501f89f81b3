"""The part that all workers share: read a case, compute it a few times, answer with the times.

One line of JSON asks, one answers.  A request holds a ``case``, the number of ``repeats`` and ``sample_seconds``, how
long one sample should last at least; short computations are run many times for a sample.  The first request for a
case prepares it and warms up.  The answer holds the ``seconds`` of one computation, sample by sample, for each
variant that the library offers (memory layouts, compiled or not), and a ``checksum`` of what was computed, so that
the caller can see that all libraries compute the same.
"""

import json
import math
import os
import sys
import time

import numpy as np

# A variant this much slower than the library's fastest one is not timed again.
HOPELESS = 1.5

# How long each variant computes untimed when it is its turn.
WARM_UP_SECONDS = 0.02

THREADS = int(os.environ.get("BENCHMARK_THREADS", "1"))


class UnsupportedError(Exception):
    """The library does not offer this computation."""


class Prepared:
    """One case, ready to be timed.

    Parameters
    ----------
    variants : dict
        Of functions without arguments that compute the case and return an array, several in a tuple, or None; or of
        pairs of such a function and the number of times that it computes the case.
    sample_seconds : float
    """

    def __init__(self, variants, sample_seconds):
        self.variants, self.checksum = {}, None
        failure = UnsupportedError("no variant")
        for name, function in variants.items():
            function, units = function if isinstance(function, tuple) else (function, 1)
            try:
                output = function()
            except Exception as error:
                # Libraries lack some combinations, and say so in exceptions of many types.
                failure = error
                continue
            self.checksum = checksum(output)
            started = time.perf_counter()
            function()
            seconds = time.perf_counter() - started
            # An estimate from one call is rough: at least one, at most a million.
            calls = min(max(math.ceil(sample_seconds / max(seconds, 1e-9)), 1), 10**6)
            self.variants[name] = function, units, calls
        if not self.variants:
            raise failure

    def time(self, repeats):
        """Seconds of one computation, `repeats` samples of every variant."""
        samples = {}
        for name, (function, units, calls) in self.variants.items():
            # Other processes have computed meanwhile: caches are cold, and the core takes a while to its full speed.
            started = time.perf_counter()
            while True:
                function()
                if time.perf_counter() - started >= WARM_UP_SECONDS:
                    break
            samples[name] = []
            for _ in range(repeats):
                started = time.perf_counter()
                for _ in range(calls):
                    function()
                samples[name].append((time.perf_counter() - started) / (calls * units))
        if repeats:
            fastest = min(map(min, samples.values()))
            self.variants = {
                name: variant for name, variant in self.variants.items() if min(samples[name]) <= HOPELESS * fastest
            }
        return samples


def checksum(output):
    """Mean magnitudes of the arrays, which do not depend on the order of their axes."""
    if output is None:
        return None
    arrays = output if isinstance(output, (tuple, list)) else (output,)
    return [float(np.abs(np.asarray(array), dtype=np.float64).mean()) for array in arrays]


def serve(prepare, versions, **commands):
    """Answer requests from standard input until it ends; or, if the command line names one, run a command.

    Parameters
    ----------
    prepare : callable
        Makes the variants of a case: see `Prepared`.
    versions : dict
        Version by library.
    commands : callable
        Functions without arguments, by name, for measurements in a process of their own.  What they return is
        written as JSON.
    """
    # Whatever a library prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    if len(sys.argv) > 1 and sys.argv[1] in commands:
        answer(commands[sys.argv[1]]())
        return
    answer({"versions": versions})
    case, prepared = None, None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["case"] != case:
                # Free the arrays of the last case before those of the next are made.
                case = prepared = None
                prepared = Prepared(prepare(request["case"]), request["sample_seconds"])
                case = request["case"]
            answer({"seconds": prepared.time(request["repeats"]), "checksum": prepared.checksum})
        except Exception as error:
            # The benchmark goes on without this library's figure, and shows the reason.
            message = (str(error).splitlines() or [""])[0]
            answer({"error": f"{type(error).__name__}: {message}"})
