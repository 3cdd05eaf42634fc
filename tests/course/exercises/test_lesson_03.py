"""Answers as students write them; and the two formulas hold for real convolutions."""

import torch
from torch import nn

from refseg_course.exercises import lesson_03 as check


def grid_size(side, strides):
    for stride in strides:
        side = -(-side // stride)
    return side


def receptive_field(layers):
    field = 1
    for kernel, stride, dilation in reversed(layers):
        field = (field - 1) * stride + dilation * (kernel - 1) + 1
    return field


def coordinates(h, w):
    rows = []
    for i in range(h):
        for j in range(w):
            x0, y0, x1, y1 = -1 + 2 * j / w, -1 + 2 * i / h, -1 + 2 * (j + 1) / w, -1 + 2 * (i + 1) / h
            rows.append([x0, y0, x1, y1, (x0 + x1) / 2, (y0 + y1) / 2, 1 / w, 1 / h])
    return torch.tensor(rows).T.reshape(8, h, w)


def unit_regions(regions):
    length = regions.pow(2).sum(2, keepdim=True).sqrt()
    return torch.where(length > 0, regions / length, regions)


def test_answers_of_students_pass(capsys):
    check.grid_size(grid_size)
    check.receptive_field(receptive_field)
    check.spatial_coordinates(coordinates)
    check.unit_regions(unit_regions)
    assert capsys.readouterr().out.count("OK") == 4


def test_grid_of_real_convolutions():
    for side, strides in check.grid_cases():
        net = nn.Sequential(*(nn.Conv1d(1, 1, 3, stride, padding=1) for stride in strides))
        assert net(torch.zeros(1, 1, side)).shape[-1] == check._right_grid(side, strides), (side, strides)


def test_field_of_real_convolutions():
    for (layers,) in check.layers_cases():
        net = nn.Sequential(*(nn.Conv1d(1, 1, k, s, dilation=d, bias=False) for k, s, d in layers))
        for parameter in net.parameters():
            nn.init.ones_(parameter)
        line = torch.zeros(1, 1, 101, requires_grad=True)
        out = net(line)
        out[0, 0, out.shape[-1] // 2].backward()
        seen = line.grad[0, 0].nonzero()
        assert int(seen.max() - seen.min()) + 1 == check._right_field(layers), layers
