"""LSTM language models: their published size, their dropouts, and what they remember."""

from __future__ import annotations

import pytest
import torch

from kdcli.core.carried import Carried
from kdcli.core.penalties import penalising
from kdcli.core.types import Batch
from kdcli.engine.ema import LateAverage
from kdcli.errors import Incompatible
from kdcli.jobs.build.networks import build_network

SHAPE = (1, 1, 1)


def small(**options):
    return build_network(
        "lstm_small", num_classes=11, input_shape=SHAPE,
        options={"embedding": 6, "hidden": 8, "layers": 2, **options},
    )  # fmt: skip


def window(x, number):
    rows = torch.zeros(x.numel(), dtype=torch.int64)
    return Batch(x, rows, rows, rows, window=number)


def test_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        counts = {
            name: sum(
                parameter.numel()
                for parameter in build_network(
                    name, num_classes=10_000, input_shape=SHAPE
                ).parameters()
            )
            for name in ("awd_lstm", "awd_lstm_600")
        }
    assert round(counts["awd_lstm"] / 1e6, 1) == 24.2
    assert round(counts["awd_lstm_600"] / 1e6, 1) == 9.1


def test_it_computes_what_torch_modules_compute():
    network = small().eval().double()
    x = torch.randint(11, (3, 1, 1, 5))
    embedded = torch.nn.functional.embedding(x.flatten(1), network.head.weight)
    for lstm in network.lstms:
        plain = torch.nn.LSTM(lstm.weight_ih.shape[1], lstm.weight_hh.shape[1], batch_first=True)
        plain.double().load_state_dict(
            {f"{name}_l0": value for name, value in lstm.state_dict().items()}
        )
        embedded, _ = plain(embedded)
    expected = network.head(embedded).flatten(0, 1)
    torch.testing.assert_close(network(x).logits.double(), expected, rtol=1e-6, atol=1e-6)


def test_what_it_remembers_goes_on_from_window_to_window():
    network, x = small().eval(), torch.randint(11, (3, 1, 1, 9))
    whole = network(x).logits.view(3, 9, -1)
    carried = Carried()
    with carried.window(window(x[..., :4], 0)):
        first = network(x[..., :4]).logits.view(3, 4, -1)
    kept = {name: tensor.clone() for name, tensor in carried.state().items()}
    with carried.window(window(x[..., 4:], 1)):
        rest = network(x[..., 4:]).logits.view(3, 5, -1)
        again = network(x[..., 4:]).logits.view(3, 5, -1)  # asked twice about one window
    assert torch.equal(rest, again)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=1e-5, atol=1e-6)
    fresh = Carried()
    fresh.load_state(kept)
    with fresh.window(window(x[..., 4:], 1)):
        assert torch.equal(network(x[..., 4:]).logits.view(3, 5, -1), rest)
    with carried.window(window(x[..., :4], 0)):  # a text begins anew
        assert torch.equal(network(x[..., :4]).logits.view(3, 4, -1), first)


def test_dropout_is_locked_over_the_window_and_off_where_nothing_is_trained():
    options = {"dropout": 0.5, "dropout_input": 0.5, "dropout_embedding": 0.3, "weight_drop": 0.5}
    network, x = small(**options), torch.randint(11, (2, 1, 1, 6))
    pooled = network.train()(x, ("pooled",)).taps["pooled"].view(2, 6, -1)
    dropped = pooled == 0
    assert torch.equal(dropped.all(1), dropped.any(1))  # the same units at every place
    assert not torch.equal(network(x).logits, network(x).logits)
    network.eval()
    assert torch.equal(network(x).logits, network(x).logits)


def test_activations_are_penalised_in_training_alone():
    network, x = small(ar=2.0, tar=3.0), torch.randint(11, (2, 1, 1, 6))
    with penalising() as found, torch.no_grad():
        network.train()
        pooled = network(x, ("pooled",)).taps["pooled"].view(2, 6, -1)
    assert float(found["ar"]) == pytest.approx(2 * float(pooled.square().mean()), rel=1e-6)
    change = pooled[:, 1:] - pooled[:, :-1]
    assert float(found["tar"]) == pytest.approx(3 * float(change.square().mean()), rel=1e-6)
    with penalising() as found:
        network.eval()(x)
    assert not found


def test_dividing_the_last_layer_divides_the_logits_and_nothing_else():
    network, x = small().eval(), torch.randint(11, (2, 1, 1, 4))
    before = network(x).logits
    (head,) = network.linear_heads()
    with torch.no_grad():
        torch._foreach_div_(list(head.parameters()), 3.0)
    network.logits_divided(3.0)
    torch.testing.assert_close(network(x).logits * 3, before, rtol=1e-5, atol=1e-6)


def test_it_takes_words_and_no_pictures():
    with pytest.raises(Incompatible, match="reads words of a text, and these are pictures"):
        build_network("lstm_small", num_classes=10, input_shape=(3, 32, 32))
    with pytest.raises(Incompatible, match="has no tap 'stage1'"):
        small()(torch.zeros(1, 1, 1, 2), ("stage1",))


def test_a_late_average_begins_when_held_out_loss_gets_no_better():
    network = torch.nn.Linear(1, 1, bias=False)
    average = LateAverage(network, 2)

    def step(value):
        network.weight.data.fill_(value)
        average.update_parameters(network)
        return float(average.module.weight.detach())

    for loss, value in ((5.0, 1.0), (4.0, 2.0), (4.5, 3.0)):
        assert step(value) == value
        average.judge(loss)
    assert not bool(average.begun)  # 4.5 is above 4.0, which is among the last two, and not above 5
    average.judge(5.5)  # above 5, the least of all but the last two
    assert bool(average.begun)
    assert step(4.0) == 4.0
    assert step(6.0) == 5.0
    fresh = LateAverage(network, 2)
    fresh.load_state_dict(average.state_dict())
    network.weight.data.fill_(8.0)
    fresh.update_parameters(network)
    assert float(fresh.module.weight.detach()) == 6.0
