"""JSON schemas of any shape, small enough that a model of random weights gets through them."""

from hypothesis import strategies as st

WORDS = st.sampled_from(["a", "name", "x y", 'quo"te', "ключ", "😀", "back\\slash", "$ref", ""])
PATTERNS = st.sampled_from(
    ["^[a-z]{1,4}$", "^(yes|no)$", "^\\d{3}-\\d{2}$", "^[A-F0-9]+x$", "^.{0,3}$", "^a?b*$"]
)
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-99, 99), WORDS, st.lists(st.integers(0, 9), max_size=2)
)


def _bounds(low, high):
    return st.tuples(st.integers(-50, 50), st.integers(0, 200)).map(
        lambda pair: {low: pair[0], high: pair[0] + pair[1]}
    )


integers = st.one_of(
    st.just({}),
    _bounds("minimum", "maximum"),
    st.integers(-9, 9).map(lambda bound: {"exclusiveMinimum": bound}),
    st.integers(1, 9).map(lambda one: {"multipleOf": one, "minimum": 0, "maximum": 500}),
).map(lambda bounds: {"type": "integer", **bounds})
numbers = st.one_of(st.just({}), _bounds("minimum", "maximum")).map(
    lambda bounds: {"type": "number", **bounds}
)
strings = st.one_of(
    PATTERNS.map(lambda pattern: {"pattern": pattern}),
    st.tuples(st.integers(0, 3), st.integers(0, 4)).map(
        lambda pair: {"minLength": pair[0], "maxLength": pair[0] + pair[1]}
    ),
    st.sampled_from(["date", "time", "uuid", "ipv4"]).map(lambda form: {"format": form}),
).map(lambda what: {"type": "string", **what})
leaves = st.one_of(
    integers,
    numbers,
    strings,
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"type": ["integer", "null"]}]),
    st.lists(VALUES, min_size=1, max_size=4).map(lambda values: {"enum": values}),
    VALUES.map(lambda value: {"const": value}),
)


@st.composite
def _objects(draw, inner):
    properties = draw(st.dictionaries(WORDS, inner, max_size=4))
    names = st.sampled_from(sorted(properties)) if properties else st.nothing()
    required = draw(st.lists(names, unique=True))
    schema = {"type": "object", "properties": properties, "required": required}
    return schema | {"additionalProperties": draw(st.just(False) | leaves)}


def _arrays(inner):
    return st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda drawn: {
            "type": "array",
            "items": drawn[0],
            "minItems": drawn[1],
            "maxItems": drawn[1] + drawn[2],
        }
    )


def _choices(inner):
    return st.lists(inner, min_size=1, max_size=3).map(lambda options: {"anyOf": options})


schemas = st.recursive(
    leaves, lambda inner: _objects(inner) | _arrays(inner) | _choices(inner), max_leaves=8
)
