from sgm_plugins.networks.levels import Heads, Levels


def test_a_plan_says_what_stands_on_each_level():
    levels = Levels.plan(32, [1, 2, 4], 2, [2, 4], [1, 2, 10])
    assert levels.widths == [32, 64, 128]
    assert levels.res_blocks == [2, 2, 2]
    assert levels.depths == [1, 2, 10]
    assert levels.transformers == [0, 3, 3]  # the way up has a block more


def test_fewer_transformers_than_blocks_can_be_asked_for():
    assert Levels.plan(32, [1, 2, 4], 2, [1, 4], 1, [1, 2, 0]).transformers == [1, 0, 0]


def test_heads_are_counted_by_their_width_or_their_number():
    assert Heads(-1, 16).at(64, "up") == 4
    assert Heads(8, 16).at(64, "up") == 4
    assert [Heads(8, -1, 2).at(64, place) for place in ("down", "middle", "up")] == [8, 8, 2]
    assert Heads(-1, -1).at(64, "middle") == 1
