# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Shared by IQ1_S and IQ1_M: the search for coordinates, delta and the scale of a sub-block, and for codebook points.

A weight is scale * (coordinate + delta). The coordinate is -1, 0 or 1, and delta is 1/8 or -1/8, the same for a group of
weights. The coordinates of eight weights are one of the 2048 points of a codebook.

What the reference searches. It first ignores the codebook. The best coordinates rise with the weights, so it sorts the n
weights of a sub-block and tries every split of this order: -1 below rank i1, 0 below rank i2, 1 from there on. It takes the
split and delta with the largest score, sum_qx^2 / sum_q2. Then it replaces each eight coordinates that the codebook lacks by
the nearest point in a list, and fits the scale again.

What we search. The score of a split takes some operations with the reference's rounding and order, but few splits can win.
So we first compute the scores of every fourth rank only, in a cheaper way. Their maximum, lowered a little, is a bound that
the winner exceeds (start_split). Then we go through all splits with the cheaper score, and only where it exceeds the bound
in some lane, the reference's own operations follow (keep_better). The bound rises with the best score.

Why the bytes are the same. The bounds are lowered by 1 to 2 %, while cheap and exact scores differ by rounding only. So a
split that is left out is worse than the winner beyond doubt, and it cannot change which of the others wins.

Each lane holds one super-block.
"""

from libc.float cimport FLT_MAX
from libc.math cimport INFINITY
from libc.stdint cimport int8_t, int32_t, uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy

from quantreg_kernels.lanes cimport (
    LANES, vf, vf_abs, vf_bits, vf_eq, vf_from_vi, vf_gt, vf_load, vf_lookup4, vf_lt, vf_max, vf_min, vf_select, vf_set1,
    vi, vi_add_where, vi_bits, vi_clamp, vi_eq, vi_gather, vi_gt, vi_load, vi_lt, vi_max, vi_nearest, vi_select, vi_set1,
    vi_shr, vm, vm_and, vm_any, vm_bits, vm_not, vm_or,
)
from quantreg_iquants._codebook8 cimport ANY_LEVEL, Codebook, nearest_point, rows_of_lanes

cdef enum:
    POINTS = 2048
    LISTED = 460784     # codes in the lists of neighbors, at 16 lanes


# n weights in ascending order. Equal weights keep their order.
cdef struct Sorted:
    vf x[33]            # x[n] and order[n] are larger than all others
    vf w[32]
    vi order[33]        # the position of each weight in the sub-block


cdef inline void exchange(Sorted *s, int i, int j) noexcept nogil:
    """Swap entries i and j where they are out of order."""
    cdef vm swap = vm_or(vf_gt(s.x[i], s.x[j]), vm_and(vf_eq(s.x[i], s.x[j]), vi_gt(s.order[i], s.order[j])))
    cdef vf x = s.x[i], w = s.w[i]
    cdef vi order = s.order[i]
    s.x[i] = vf_select(swap, s.x[j], x)
    s.x[j] = vf_select(swap, x, s.x[j])
    s.w[i] = vf_select(swap, s.w[j], w)
    s.w[j] = vf_select(swap, w, s.w[j])
    s.order[i] = vi_select(swap, s.order[j], order)
    s.order[j] = vi_select(swap, order, s.order[j])


cdef inline void sort(const vf *x, const vf *w, int n, Sorted *s) noexcept nogil:
    """Sort with Batcher's odd-even merge sort, whose sequence of comparisons does not depend on the data."""
    cdef int size = 1, step, i, j
    for i in range(n):
        s.x[i] = x[i]
        s.w[i] = w[i]
        s.order[i] = vi_set1(i)
    s.x[n] = vf_set1(FLT_MAX)
    s.order[n] = vi_set1(n)
    while size < n:
        step = size
        while step >= 1:
            j = step % size
            while j + step < n:
                for i in range(j, j + step if j + step < n - step else n - step):
                    if i // (2 * size) == (i + step) // (2 * size):
                        exchange(s, i, i + step)
                j += 2 * step
            step //= 2
        size *= 2


# The best split so far.
cdef struct Split:
    vf score
    vf scale
    vi first[2]     # ranks of the first zero and the first one
    vi shift        # which delta, in the numbering of the type


cdef inline void keep_better(Split *best, vf sum_qx, vf sum_q2, int i1, int i2, int shift) noexcept nogil:
    cdef vm better = vm_and(vf_gt(sum_q2, vf_set1(0)), vf_gt(sum_qx * sum_qx, best.score * sum_q2))
    cdef vf scale = sum_qx / sum_q2
    best.scale = vf_select(better, scale, best.scale)
    best.score = vf_select(better, scale * sum_qx, best.score)
    best.first[0] = vi_select(better, vi_set1(i1), best.first[0])
    best.first[1] = vi_select(better, vi_set1(i2), best.first[1])
    best.shift = vi_select(better, vi_set1(shift), best.shift)


cdef inline vm start_split(Split *best, vf sum_qx2, vf sum_q2) noexcept nogil:
    """Set the score to beat to a little below the score of a split that exists.

    Return the lanes whose sums are so extreme that rounding errors are not relative. They start from nothing, and every
    split has to be computed for them.
    """
    cdef vf score = sum_qx2 / sum_q2 * vf_set1(<float>(63.0 / 64))
    cdef vm extreme = vm_not(vm_and(
        vm_and(vf_gt(sum_qx2, vf_set1(<float>1e-33)), vf_lt(sum_qx2, vf_set1(<float>1e33))),
        vm_and(vf_gt(score, vf_set1(<float>1e-33)), vf_lt(score, vf_set1(<float>1e33)))))
    best.score = vf_select(extreme, vf_set1(-FLT_MAX), score)
    best.scale = vf_set1(0)
    best.first[0] = vi_set1(-1)
    best.first[1] = vi_set1(-1)
    best.shift = vi_set1(0)
    return extreme


cdef inline vf tolerant(vf score) noexcept nogil:
    return score * vf_set1(<float>(127.0 / 128))


cdef inline vi lane_numbers() noexcept nogil:
    cdef int32_t number[LANES]
    cdef int i
    for i in range(LANES):
        number[i] = i
    return vi_load(number)


cdef inline void split_indices(const vf *x, const Sorted *s, const Split *best, int n, vm mirrored, vi *index) noexcept nogil:
    """Write the index (base 3, see _codebook8.pxd) of the point of each eight weights.

    Where mirrored, the scale was negative: the point takes the opposite coordinates.
    """
    cdef vf edge[2]
    cdef vi order[2]
    cdef vi at
    cdef vi lane = lane_numbers()
    cdef int i, j, k, power
    for i in range(2):
        at = vi_max(best.first[i], vi_set1(0)) * LANES + lane
        edge[i] = vf_bits(vi_gather(<const int32_t *>s.x, at))
        order[i] = vi_gather(<const int32_t *>s.order, at)
    for k in range(n // 8):
        index[k] = vi_set1(0)
        power = 1
        for j in range(8 * k, 8 * k + 8):
            for i in range(2):
                index[k] = vi_add_where(
                    vm_or(vf_gt(x[j], edge[i]), vm_and(vf_eq(x[j], edge[i]), vm_not(vi_gt(order[i], vi_set1(j))))),
                    index[k], vi_set1(power))
            power *= 3
        index[k] = vi_select(mirrored, 6560 - index[k], index[k])


cdef inline vf coordinates() noexcept nogil:
    """Return -1, 0 and 1, repeated with a period of 4."""
    cdef float value[LANES]
    cdef int i
    for i in range(LANES):
        value[i] = <float>(i % 4 - 1)
    return vf_load(value)


cdef inline vf shifted_levels(float delta) noexcept nogil:
    """Return -1, 0 and 1 plus delta, and infinity, repeated."""
    cdef float value[LANES]
    cdef int i
    for i in range(LANES):
        value[i] = INFINITY if i % 4 == 3 else <float>(i % 4 - 1) + delta
    return vf_load(value)


cdef inline vm is_rounded(const vf *x, vf scale, vf delta, vi index) noexcept nogil:
    """Return whether every coordinate is clearly the nearest level to its weight.

    It usually is, because otherwise another split would be better.
    """
    cdef vf inverse = vf_set1(1) / scale
    cdef vf off = vf_set1(1)    # smallest distance of any weight from the middle between two levels (-1/2 or 1/2)
    cdef vf p
    cdef int power = 1
    cdef int i
    for i in range(8):
        p = inverse * x[i] - delta
        index = vi_add_where(vf_gt(p, vf_set1(<float>-0.5)), index, vi_set1(-power))
        index = vi_add_where(vf_gt(p, vf_set1(<float>0.5)), index, vi_set1(-power))
        off = vf_min(vf_abs(vf_abs(p) - vf_set1(<float>0.5)), off)
        power *= 3
    return vm_and(vi_eq(index, vi_set1(0)), vf_gt(off, vf_set1(<float>1e-4)))


cdef inline void choose_points(const Codebook *b, const vf *x, const vf *w, int n, vm alive, const vf *delta, vf *scale,
                               const vi *index, vi *code) noexcept nogil:
    """Write the codes of the points to store for `index`, and fit the scale again in lanes where the codebook lacked one.

    delta[k] is the delta of eight weights, 1/8 or -1/8.
    """
    cdef float x_rows[32 * LANES]
    cdef float w_rows[32 * LANES]
    cdef vf plus = shifted_levels(<float>0.125)
    cdef vf minus = shifted_levels(<float>-0.125)
    cdef vf level = coordinates()
    cdef vf q, wq, sum_qx, sum_q2
    cdef vi entry
    cdef vm lacking, again
    cdef unsigned int todo
    cdef bint clear
    cdef int32_t *codes
    cdef int j, k, lane
    again = vf_lt(vf_set1(0), vf_set1(0))
    rows_of_lanes(x_rows, x, n)
    rows_of_lanes(w_rows, w, n)
    for k in range(n // 8):
        entry = vi_gather(b.table, index[k])
        entry = vi_select(vm_or(vi_lt(entry, vi_set1(0)), is_rounded(x + 8 * k, scale[0], delta[k], index[k])), entry,
                          entry | ANY_LEVEL)
        lacking = vm_and(alive, vm_not(vi_lt(entry, vi_set1(0))))
        again = vm_or(again, lacking)
        code[k] = ~entry & 0xffff
        codes = <int32_t *>&code[k]
        todo = vm_bits(lacking)
        for lane in range(LANES):
            if (todo >> lane) & 1:
                codes[lane] = nearest_point(
                    b, (<int32_t *>&entry)[lane], x_rows + lane * n + 8 * k, w_rows + lane * n + 8 * k,
                    (<float *>scale)[lane], plus if (<float *>&delta[k])[lane] > 0 else minus, 0, &clear)
    if not vm_any(again):
        return
    sum_qx = vf_set1(0)
    sum_q2 = vf_set1(0)
    for j in range(n):
        q = vf_lookup4(level, vi_shr(code[j // 8], 2 * (j % 8))) + delta[j // 8]
        wq = w[j] * q
        sum_qx = sum_qx + wq * x[j]
        sum_q2 = sum_q2 + wq * q
    again = vm_and(again, vm_and(vf_gt(sum_qx, vf_set1(0)), vf_gt(sum_q2, vf_set1(0))))
    scale[0] = vf_select(again, sum_qx / sum_q2, scale[0])


cdef inline vi share_of_15(vf scale, vf inverse) noexcept nogil:
    """Return the 3-bit scale of a sub-block: the nearest share with scale = (2 * share + 1) / inverse, 0..7."""
    return vi_clamp(vi_nearest(vf_set1(<float>0.5) * (inverse * scale - vf_set1(1))), 0, 7)


cdef inline const char *codebook_text() noexcept nogil:
    """Return kgrid_1bit_2048 of llama.cpp's ggml-quants.c (MIT), as _codebook.pxd packs it."""
    return (
        b"$%&&%*'.%)%>/&%2>%)%..%)%B)$/&%&$.@#(&,&(*&%%@$/&%2B*%)%..%)%>/+.(:%)%*''*%)%K:&%2@#+/(-$@3+/B+&$$2&%2:(()$&$$&*%"
        b"&&%:3'&%*&$$&B:(@/&/%&&+$(&@#/&(K:%)%..%)%>/(2>%)%..%)%B*/&(.$@#2$'/&(@/&%&/B*%)%..%)%>/++'>%&&%..%)%@T-$&(.$@#&/"
        b"(&,&$'@/&%.'B+&%&*%&&,&(@#()$$%$$&*(@&1&/&B<&%2>)&,&&%-%@&/&%2K/(&.$&$+(>'$%%*&$$&,&&@#(*'$&$$*&$'B(&(*&$$&*%&&%:"
        b"&$$.$%$$&$*&$$&:%%$&%)$&$$&$)%&B+&$$2$%%*(=%%$&%*'$%$+&$&$$@#'+&2(K;(2@#&%&*(&%)$&%&@#/&4B:%&(*'@$%$&,&$$&$)((@&+"
        b"$&&,(&B/01%@%%&*%&&,(&@#/('@T-%)%..%&&%>/++'>%)%..%&&%B*/&(/@$%(/&%*&$$@&.)&/B+*%*'.%)%>/(&/@#*%*'.%)%K.2%&/@&$$&"
        b",&&%/@&/&(+'B3//+:(&,&$',&&@(*'$&%*&%&B+.%*/@#+/.$+>%--K9%)%..%)%>/&4>%)%9%)%B.+&(/@(&,&/&%&@#.)&.$B*%)%9%)%>/(&/"
        b">%)%..%)%EZ*/(2@+,&&%*&%@5(+(B)$&%&,&$%%*(&@#&%*&$$&$.&%:&%-%&.$$B2/&%2@#4&(-(@'.4K/7'3@#&%*&$$.$&&%:(&*%&.$+B'$&"
        b"(*&$$&*((:&$$&*$&$$%$+&$$&<%$&,&$$&$.&%B&''.$&%*&(:%&&+$$&$&,&&<'(-$/&%K2/'(.@$**(&,&%&@#/&%&/B+'$')'$&,&%=((*$%$"
        b"$&*%&$'@#&,&$%,&%&B<@5%&/&%-(@24@T#&$$&,&(*&(:(&,&$$&/&@%&/&+$(&B+&$$*&$$%$*($%%:&$$&*$$%$$%$$*&$$&<&/&$$&*((B&(/"
        b"&(*&@%&(*&$$&,&@'.%&'$-K3$/&$$%$+'&%:&$$&$)$&$$%$$*$%$$&:+%*&$$&+&$(B&$%$$&*$$%$$&$*&$$&:$$%$$%$*$$%$$%$$)$&$$%$$"
        b":&$'$)$&$$%$+&$$&B&$$%%%$+&$&$*$$%$$%$;'$%$$)$$%$$%$$*&$'<&$%$$*'(+&$%$K.$$&*(&,,>&%*&$$%$*%%$@$**%&&,+B'$&(*&$$&"
        b"/@#&$$&*$$%$$%$$*&$$&;''+&$$%$/B.'0()($&@#&$+'$%$,&&%:,+&$%%*@T+2%&/@&/($%%*&%&;82B+&%&,&/$'&@#'+'$&/$'=)+&/(&B7("
        b"&@.$(2$%+@,/(2L#$&$'*(&:%&&%*&$$&$)%&@&$'*%%$$%%*&(B+&%*'$&@2$$&*$&$$&+&$$&@$&$*'$&$+&$%B)*/.)%$:(&%*&$$%%)(&;%&("
        b"-%%$*'%'L#&/@#4&(*+@#/*1B*&/(/&%&:$'$%,&$$&*((;%)./&$'B7(%@0&(*(&%-$'@$1'%/EZ)%)%9%)%>.$&%&/>%)%..%)%B*/&%&/@#&(*"
        b"%&$%$.%&@#'.%&/B*%)%..%)%@.&(/>%)%..%)%K=(@/&0'(*&(@2(B7+,&(/&:$'&,&$$&$.$%%:&%&*%&&1B:(&/@#&($)('$*('>/,-K/%)%.."
        b"%)%:'/&(/':%)%..%)%B*$.&%2@#&%&*%&(*&@(4&/B*%)%..%)%>/&%@1%)%..%)%@S>/(%$/@#(&/&%2$>/&%&/B+&%&*(&%*&%&:(.$&$$&,&@"
        b"&%/&&,&%&B+/&(/@&%&*%&&1&@#2%6K+&%-(&1=-*&$$%$*$$&@&%/%$&,+B&(&%)$&$$&+''$:&$$&*$$%$$%$$*&$$&;'&,$%$$&$)%&&%B&&/("
        b"'*)&@#&$+$&$&/&=%($+%$2%&K/4&/@#(-%&$'-$@'/(&/B.%&*%&&%)$&%=%&&%*&$$&,&$':&/%&(*(B.33@&%&*(&,@+/&$$@T1%)%..%)%>/&"
        b"%&@.%)%..%)%B*'+&%&$@3&+'&%*&@(.%'&B8)%),,)%>/(&/>%)%..%)%L&/@#&/'$&%*'$%$@#C4&*%&&1&<&/&$$&/(:&$$&,&&B</('*'@&%'"
        b"+&$%+%@+-($&+&%K-%)%9%)%@.&%&@.%)%..%)%B*2(+'@#2((*(&@.)B9%)%9%)%@.&%@1%)%..%)%"
    )


cdef inline void build_grid(const uint16_t *points, uint64_t *grid) noexcept nogil:
    """Fill the decoder's table: 8 * coordinate + 144 for each coordinate -1, 0 or 1 of a point, one per byte."""
    cdef int i, k
    for k in range(POINTS):
        grid[k] = 0
        for i in range(8):
            grid[k] |= <uint64_t>(136 + 8 * ((points[k] >> (2 * i)) & 3)) << (8 * i)


cdef inline void put_shifted(int8_t *q, uint64_t point, bint minus) noexcept nogil:
    """Write eight signed bytes, 8 * coordinate + 1 or 8 * coordinate - 1 (minus).

    The bytes of point are 8 * coordinate + 144. Subtracting 15 or 17 leaves the result plus 128, so no byte borrows from
    the next, and flipping the top bit removes the 128.
    """
    point -= <uint64_t>0x1111111111111111 if minus else <uint64_t>0x0f0f0f0f0f0f0f0f
    point ^= <uint64_t>0x8080808080808080
    memcpy(q, &point, 8)
