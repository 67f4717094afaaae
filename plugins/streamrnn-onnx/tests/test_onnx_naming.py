"""Which names say that an output is an input's next value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamrnn_onnx.naming import alike

PAIRS = """
state stateN | h hn | c cn | h0 next_h0 | cached_len_0 new_cached_len_0 | h_in h_out | c_in c_out | hx hy
past_key_values.0.key present.0.key | past_state present_state | past present | h0 hn | h_0 h_n | H HN
initial_h final_h | state_in state_out | in_state out_state | prev_h h | h h_new | hidden hidden_out
h_prev h_t
input_state output_state | h1_in h1_out | lstm_h0 lstm_hn | initialHidden finalHidden | rnn1_h0 rnn1_hn
conv_cache conv_cache_out | decoder.h0 decoder.h0.new | h_t h_next | states_h:0 states_h_out:0
"""
STRANGERS = """
input_2 output_2 | h c_out | h0 cn | h1_in h2_out | h0 h1 | x y | input output | rnn1_h0 rnn2_hn | h0 h1_out
attention attentio | past_0 present_1 | mean meant
"""


def pairs(text):
    return [tuple(pair.split()) for line in text.strip().splitlines() for pair in line.split("|")]


@pytest.mark.parametrize(("before", "after"), pairs(PAIRS))
def test_belonging_together(before, after):
    assert alike(before, after)


@pytest.mark.parametrize(("before", "after"), pairs(STRANGERS))
def test_strangers(before, after):
    assert not alike(before, after)


LETTERS = st.text("abcdefgh", min_size=2, max_size=6)
FORMS = [
    ("{}_in", "{}_out"),
    ("past_{}", "present_{}"),
    ("{}_0", "{}_n"),
    ("prev_{}", "new_{}"),
    ("{}", "{}_next"),
]


@given(LETTERS, LETTERS, st.integers(1, 9), st.integers(1, 9), st.sampled_from(FORMS))
def test_another_name_or_number_is_another_state(one, other, i, j, form):
    before, after = form
    assert alike(before.format(f"{one}_{i}"), after.format(f"{one}_{i}"))
    if (one, i) != (other, j):
        assert not alike(before.format(f"{one}_{i}"), after.format(f"{other}_{j}"))
