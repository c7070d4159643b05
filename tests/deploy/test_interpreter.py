"""The interpreters: the numbers that go in and come out, batches, memory, errors, processes."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from ai_edge_litert import interpreter as litert
from tflite_micro import runtime as tflm

from keras_kd import deploy
from keras_kd.deploy.artifact import TensorInfo
from keras_kd.deploy.interpreter import RUNTIMES, to_real, to_stored


@pytest.fixture(scope="module")
def artifact(converted):
    return converted("int8")


# -- quantizing ------------------------------------------------------------------------------------


def test_quantizing_rounds_halves_away_and_saturates():
    tensor = TensorInfo("x", (1, 8), "int8", 0.5, -3)
    real = np.array([[0.25, -0.25, 0.75, -0.75, 0.2499, 1e9, -1e9, np.inf]])
    # real / 0.5 = 0.5, -0.5, 1.5, -1.5, ..: halves go away from zero, then the zero point.
    assert to_stored(real, tensor).tolist() == [[-2, -4, -1, -5, -3, 127, -128, 127]]
    assert to_stored(real, tensor).dtype == np.int8
    with pytest.raises(ValueError, match="NaN"):
        to_stored(np.array([np.nan]), tensor)
    # float32's largest number below a half plus a half is one: no `floor(x + 0.5)`.
    below = np.nextafter(np.float32(0.5), np.float32(0))
    assert to_stored(np.array([below]), TensorInfo("x", (1,), "int8", 1.0, 0)).tolist() == [0]


def test_quantizing_is_what_the_runtimes_do(by_hand):
    """Against the QUANTIZE op of the reference kernels and of TFLM, on halves and on all else."""
    tensors = [by_hand.tensor("x", (1, 4000), "FLOAT32", None), by_hand.tensor("y", (1, 4000))]
    tensors[1].quantization.scale, tensors[1].quantization.zeroPoint = [0.013], [5]
    content = by_hand.chain(["QUANTIZE"], tensors)
    x = np.random.default_rng(0).normal(size=(1, 4000)).astype("float32")
    x[0, :401] = (np.arange(-200, 201) + 0.5) * np.float32(0.013)
    expected = to_stored(x, TensorInfo("y", (1, 4000), "int8", 0.013, 5))
    for runtime in ("litert_reference", "tflm"):
        found = deploy.Interpreter(content, runtime).predict_quantized(x)
        np.testing.assert_array_equal(found, expected)
    # XNNPACK may differ by one, on halves.
    found = deploy.Interpreter(content, "litert").predict_quantized(x)
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_dequantizing():
    tensor = TensorInfo("x", (1, 3), "uint8", 0.25, 200)
    real = to_real(np.array([[0, 200, 255]], "uint8"), tensor)
    assert real.dtype == np.float32
    assert real.tolist() == [[-50.0, 0.0, 13.75]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_stored_number_comes_back(dtype):
    limits = np.iinfo(dtype)
    stored = np.arange(limits.min, limits.max + 1).astype(dtype)
    tensor = TensorInfo("x", (1,), dtype, 0.0123, 3 if dtype == "int8" else 0)
    np.testing.assert_array_equal(to_stored(to_real(stored, tensor), tensor), stored)


def test_integers_without_a_scale():
    tensor = TensorInfo("ids", (1, 2), "int32")
    assert to_stored(np.array([[1.0, 2.0]]), tensor).dtype == np.int32
    for bad in (np.array([[1.5, 2.0]]), np.array([[2**40, 1]]), np.array([[np.nan, 1]])):
        with pytest.raises(ValueError, match="whole numbers that int32 holds for input 'ids'"):
            to_stored(bad, tensor)


# -- predicting ------------------------------------------------------------------------------------


def by_the_runtimes_own_signature(content, images):
    """The int8 outputs, by LiteRT's signature runner on reference kernels, one by one."""
    runtime = litert.Interpreter(
        model_content=content,
        experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF,
    )
    run = runtime.get_signature_runner()
    scale, zero_point = run.get_input_details()["image"]["quantization"]
    stored = np.clip(np.round(images / np.float32(scale)) + zero_point, -128, 127).astype("int8")
    return stored, np.concatenate([run(image=stored[i : i + 1])["output_0"] for i in range(50)])


def test_batches_are_fed_one_by_one(artifact, images):
    stored, expected = by_the_runtimes_own_signature(artifact.content, images[:50])
    interpreter = deploy.Interpreter(artifact, "litert_reference")
    np.testing.assert_array_equal(interpreter.predict_quantized(stored), expected)
    output = artifact.outputs[0]
    real = (expected.astype("float32") - output.zero_point) * np.float32(output.scale)
    np.testing.assert_array_equal(interpreter.predict(images[:50]), real)
    # What is int8 already is not quantized again, and uint8 is real numbers here.
    np.testing.assert_array_equal(interpreter.predict(stored), real)
    ones = np.ones((1, 8, 8, 1), "uint8")
    np.testing.assert_array_equal(
        interpreter.predict(ones), interpreter.predict(ones.astype("float32"))
    )
    assert interpreter.predict(images[:0]).shape == (0, 4)
    for form in ({"image": images[:3]}, [images[:3]], images[:3].tolist()):
        np.testing.assert_array_equal(interpreter.predict(form), real[:3])


def test_tflm_computes_what_the_reference_kernels_do(artifact, images):
    """Of this model's ops none is known to differ (see the design notes on ResNet-8)."""
    found = deploy.predict(artifact, images, "tflm")
    np.testing.assert_array_equal(found, deploy.predict(artifact, images, "litert_reference"))


def test_runtimes_give_fresh_arrays(artifact, images):
    for runtime in RUNTIMES:
        interpreter = deploy.Interpreter(artifact, runtime)
        first = interpreter.predict(images[:1])
        kept = first.copy()
        interpreter.predict(images[1:2])
        np.testing.assert_array_equal(first, kept)


def test_several_models_in_one_process(converted, images):
    """Three runtimes, two schemes, taken in turns: no state is shared."""
    made = [
        (scheme, runtime, deploy.Interpreter(converted(scheme), runtime))
        for scheme in ("int8", "float32")
        for runtime in RUNTIMES
        for _ in range(2)
    ]
    alone = {key[:2]: key[2].predict(images[:5]) for key in made}
    for i in range(5):
        for scheme, runtime, interpreter in made:
            row = interpreter.predict(images[i : i + 1])[0]
            np.testing.assert_array_equal(row, alone[scheme, runtime][i])


def test_a_progress_bar(artifact, images, capsys):
    deploy.Interpreter(artifact).predict(images[:3], progress=True)
    assert "3/3" in capsys.readouterr().out
    deploy.predict(artifact, images[:3])
    assert capsys.readouterr().out == ""


def test_latencies(artifact):
    for runtime in RUNTIMES:
        times = deploy.Interpreter(artifact, runtime).latencies_ms(runs=5, warmup_runs=1)
        assert times.shape == (5,)
        assert np.all(times > 0)
    with pytest.raises(ValueError, match="runs >= 1"):
        deploy.Interpreter(artifact).latencies_ms(runs=0)


# -- memory ----------------------------------------------------------------------------------------


def test_the_arena_is_what_is_needed(artifact, images):
    interpreter = deploy.Interpreter(artifact, "tflm")
    needed = interpreter.arena_bytes
    # The largest pair of activations at least: the convolution's 6 * 6 * 8 and its input's 64.
    assert 6 * 6 * 8 + 64 < needed < 16_000
    limited = deploy.Interpreter(artifact, "tflm", arena_bytes=needed)
    np.testing.assert_array_equal(limited.predict(images[:2]), interpreter.predict(images[:2]))
    with pytest.raises(ValueError, match=rf"arena_bytes={needed - 1}\. Received: .* {needed}\."):
        deploy.Interpreter(artifact, "tflm", arena_bytes=needed - 1)
    assert deploy.Interpreter(artifact).arena_bytes is None


@pytest.mark.parametrize("fits_after", [2, 99])
def test_the_arena_grows_until_it_fits(artifact, monkeypatch, fits_after):
    """On a stand-in for TFLM, which may end the process for real when it has too little."""
    real, sizes = tflm.Interpreter.from_bytes, []

    def too_small(content, arena_size):
        sizes.append(arena_size)
        if len(sizes) > fits_after:
            return real(content, arena_size=arena_size)
        os.write(2, b"Failed to allocate tail memory. Requested: 832, available 480, missing: 352")
        raise RuntimeError("TFLM failed to allocate tensors")

    expected = deploy.Interpreter(artifact, "tflm").arena_bytes
    monkeypatch.setattr(tflm.Interpreter, "from_bytes", too_small)
    if fits_after == 2:
        assert deploy.Interpreter(artifact, "tflm").arena_bytes == expected
        assert sizes == [sizes[0], 2 * sizes[0], 4 * sizes[0]]
    else:
        with pytest.raises(RuntimeError, match=r"fits an arena of \d+ bytes.*missing: 352"):
            deploy.Interpreter(artifact, "tflm")


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quantization", ["float16", "dynamic_range"])
def test_tflms_own_words_are_in_the_error(converted, quantization, capfd):
    own = {"float16": "DEQUANTIZE", "dynamic_range": "filter type: INT8 not supported"}
    capfd.readouterr()
    with pytest.raises(RuntimeError, match=own[quantization]):
        deploy.Interpreter(converted(quantization), "tflm")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "micro"}, "Expected runtime in litert, litert_reference, tflm"),
        ({"arena_bytes": 9}, "Expected arena_bytes only for runtime='tflm'"),
        ({"runtime": "tflm", "num_threads": 2}, "Expected num_threads=1 for runtime='tflm'"),
        ({"runtime": "tflm", "arena_bytes": 0}, "Expected arena_bytes to be a positive int"),
        ({"num_threads": 1.5}, "Expected num_threads to be a positive int"),
    ],
)
def test_options_that_do_not_fit(artifact, options, message):
    with pytest.raises(ValueError, match=message):
        deploy.Interpreter(artifact, **options)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((8, 8, 1)), ValueError, r"shape \(batch, 8, 8, 1\).*Hint: .*x\[None\]"),
        (np.zeros((2, 8, 8)), ValueError, r"Received: \(2, 8, 8\)"),
        ({"picture": np.zeros((2, 8, 8, 1))}, ValueError, r"for the inputs \['image'\]"),
        ((np.zeros((2, 8, 8, 1)), np.zeros(2)), ValueError, "with 1 array"),
        (np.full((1, 8, 8, 1), np.nan), ValueError, "NaN"),
    ],
)
def test_inputs_that_do_not_fit(artifact, x, error, message):
    with pytest.raises(error, match=message):
        deploy.Interpreter(artifact).predict(x)


def test_quantized_inputs_have_the_inputs_dtype(artifact, images):
    with pytest.raises(TypeError, match=r"Expected int8 for input 'image'\. Received: float32"):
        deploy.Interpreter(artifact).predict_quantized(images)


def test_models_that_do_not_fit(by_hand):
    with pytest.raises(TypeError, match=r"Expected an Artifact, the bytes of a \.tflite, or its"):
        deploy.Interpreter(3)
    many = [by_hand.tensor("x", (3, 4)), by_hand.tensor("y", (3, 4))]
    with pytest.raises(ValueError, match=r"batch of 1\. Received: 'x' \(3, 4\)"):
        deploy.Interpreter(by_hand.chain(["RELU"], many))
    with pytest.raises(RuntimeError, match=r"LiteRT runs.*Custom ops in it: Own"):
        deploy.Interpreter(by_hand.chain(["+Own"]))


def test_without_the_extra_there_is_a_hint(artifact, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ImportError, match=r"pip install keras_kd\[mcu\]"):
        deploy.Interpreter(artifact, "tflm")


# -- descriptor 2 ----------------------------------------------------------------------------------


def test_opening_is_quiet_and_lets_others_speak(artifact, capfd):
    """Threads that write meanwhile lose nothing, though descriptor 2 is taken from all of them."""
    capfd.readouterr()
    stop = threading.Event()
    written = []

    def speak():
        while not stop.is_set() or not written:
            written.append(f"line {len(written)}")
            print(written[-1], file=sys.stderr, flush=True)
            stop.wait(0.001)

    def build():
        for _ in range(5):
            deploy.Interpreter(artifact, "tflm")

    speaker = threading.Thread(target=speak)
    builders = [threading.Thread(target=build) for _ in range(3)]
    for thread in (speaker, *builders):
        thread.start()
    for thread in builders:
        thread.join()
    stop.set()
    speaker.join()
    err = capfd.readouterr().err.splitlines()
    assert sorted(err) == sorted(written)


def test_a_process_without_stderr(artifact, tmp_path):
    """As under a daemon: descriptor 2 is closed."""
    path = artifact.save(tmp_path / "student.tflite").path
    code = (
        "import os, sys; os.close(2); sys.stderr = None; "
        "from keras_kd import deploy; "
        f"print(deploy.Interpreter({str(path)!r}, 'tflm').arena_bytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
    )
    assert int(done.stdout.split()[-1]) == deploy.Interpreter(artifact, "tflm").arena_bytes


# -- published models ------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "arena_bytes"),
    [
        # As measured with the same runtime by hand; the first two within 13 % of a Cortex-M55.
        ("mlcommons_tiny/kws_ref_model.tflite", 24_272),
        ("mlcommons_tiny/vww_96_int8.tflite", 103_680),
        ("mlcommons_tiny/pretrainedResnet_quant.tflite", 55_984),
        ("mlcommons_tiny/ad01_int8.tflite", 3_984),
    ],
)
def test_arenas_of_published_models(data_folder, file, arena_bytes):
    assert deploy.Interpreter(data_folder / "models" / file, "tflm").arena_bytes == arena_bytes


@pytest.mark.data
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_stateful_model_forgets_between_examples(data_folder, runtime):
    """An LSTM keeps its state in the interpreter; a Keras model's `predict` does not."""
    path = data_folder / "models/tflite_micro/trained_lstm_int8.tflite"
    digits = np.load(data_folder / "mnist.npz")
    x = digits["x_test"][:300].astype("float32") / 255
    outputs = deploy.predict(path, x, runtime)
    # 92 % were published for it; 300 digits have a standard error of 1.6.
    assert (outputs.argmax(-1) == digits["y_test"][:300]).mean() > 0.92 - 4 * 0.016
    np.testing.assert_array_equal(deploy.predict(path, x[7:8], runtime)[0], outputs[7])
