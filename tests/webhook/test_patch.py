"""The patch makes exactly the new object of the old one, with pointers escaped, and touches little."""

import copy
import json
from typing import Any

import jsonpatch
from hypothesis import given
from hypothesis import strategies as st

from srcip_webhook.patch import operations, pointer

leaves = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([1.0, 0.5]), st.text(max_size=4))
keys = st.one_of(st.sampled_from(["name", "a/b", "m~n", "~1", "", "x"]), st.text(max_size=3))
values = st.recursive(
    leaves, lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(keys, inner, max_size=4))
)
objects = st.dictionaries(keys, values, max_size=5)


def exact(value: Any) -> str:
    """Tells 1 from 1.0 and True, which Python calls equal."""
    return json.dumps(value, sort_keys=True)


@given(objects, objects)
def test_applied_to_the_old_object_it_gives_the_new_one(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert exact(jsonpatch.apply_patch(copy.deepcopy(old), operations(old, new))) == exact(new)


@given(objects)
def test_equal_objects_need_no_operation(value: dict[str, Any]) -> None:
    assert operations(value, copy.deepcopy(value)) == []


named = st.lists(st.fixed_dictionaries({"name": st.sampled_from("abcdef"), "v": st.integers(0, 2)}), max_size=6)


@given(named, named)
def test_lists_of_named_items_come_out_right(old: list[Any], new: list[Any]) -> None:
    result = jsonpatch.apply_patch({"l": copy.deepcopy(old)}, operations({"l": old}, {"l": new}))
    assert exact(result) == exact({"l": new})


def test_items_put_in_front_do_not_touch_the_others() -> None:
    old = [{"name": "a", "x": 1}, {"name": "b"}]
    new = [{"name": "i"}, {"name": "j"}, {"name": "a", "x": 2}, old[1]]
    assert operations(old, new) == [
        {"op": "add", "path": "/0", "value": {"name": "i"}},
        {"op": "add", "path": "/1", "value": {"name": "j"}},
        {"op": "replace", "path": "/2/x", "value": 2},
    ]


def test_a_pointer_escapes_tilde_and_slash() -> None:
    assert pointer("metadata", "annotations", "srcip.io/a~b", 0) == "/metadata/annotations/srcip.io~1a~0b/0"
