"""The symbols of size formulas, and the quantities that many formulas share.

`Model.symbols` gives their values in a job (dessim.workload.symbol_values). The paper's names (Rong et al., SIGIR 2020)
are kept where it has one.

    job      N  workers                                m  ids a sample, mean
             B  samples of the global batch            u  distinct ids of one worker's B/N samples
             L  workers of a server, where tables have    R  replicas of the tables, if there are several, with L
                servers                                      workers and B_block samples each (dessim.workload.replicas)
             F  fields                                 U  distinct ids of the global batch
             V  rows of all tables (the vocabulary)    q  (sample, field) pairs a sample with an id on a given worker
    row      D  embedding width [floats]
             W  floats of a row: D for an embedding, 1 for lr's weight, latent + 1 for fvae's output, as operators read
             O  floats of optimizer state a row
             E  floats that a bag carries beside the sum of its rows: 1 with fm, D with nfm, plus 1 for a mean.
                A bag is the ids of one field of one sample.
             Where tables differ in width, D, W and O are means, and the last letter says over what: WF over the fields,
             Wm over the ids of samples, Wu over u rows, WU over U, WV over V, Wq over pairs. So F*WF floats are one
             sample's pooled vectors, and u*Wu those of u rows. With tables of one width all of them are D, W and O.
    dense    H1 width of an mlp's first layer          P  parameters of the dense tail
             A  multiply-adds of the tail a sample     Z  activations of the tail a sample [floats]
    bytes    k  bytes of an id (8)                     c  bytes of an id's (sample, field) coordinate,
             s  bytes of a value on the wire              or of a bag's length (4)
             sr of a value of a table's row            sd of an activation or weight of dense layers
             so of optimizer state, and of the weights that optimizers keep (4)
             s, sr and sd are 4 unless the model states another precision.

Options of strategies (dessim.workload.options) add these, as means:

             H  hot rows, which every worker holds     x  distinct cold (not hot) ids of one worker's samples
             C  rows that a GPU's cache holds          X  distinct cold ids of the global batch
             M  cache misses a step, rows              l  share of a worker's x rows that it owns itself
             Y  weights whose search directions a worker computes (Shampoo)

Sparse codecs (dessim.workload.codecs) add the share of values that are not zero: za in activations, zg in gradients,
zd in gradients of dense weights.
"""

from __future__ import annotations

from dessim.workload.formula import group, symbol, tight_sum

N = symbol("N")
B = symbol("B")
L = symbol("L")
F = symbol("F")
V = symbol("V")
m = symbol("m")
u = symbol("u")
U = symbol("U")
q = symbol("q")

D = symbol("D")
W = symbol("W")
O = symbol("O")
E = symbol("E")

DF = symbol("DF")
Dm = symbol("Dm")
Dq = symbol("Dq")
WF = symbol("WF")
Wm = symbol("Wm")
Wu = symbol("Wu")
WU = symbol("WU")
WV = symbol("WV")
OU = symbol("OU")
OV = symbol("OV")
ONE_WIDTH = {
    **dict.fromkeys(("DF", "Dm", "Dq"), "D"),
    **dict.fromkeys(("WF", "Wm", "Wu", "WU", "WV"), "W"),
    **dict.fromkeys(("OU", "OV"), "O"),
}
"""The names of means over tables, if these have one width."""

H1 = symbol("H1")
A = symbol("A")
P = symbol("P")
Z = symbol("Z")

k = symbol("k")
c = symbol("c")
s = symbol("s")
sr = symbol("sr")
sd = symbol("sd")
so = symbol("so")

H = symbol("H")
C = symbol("C")
M = symbol("M")
x = symbol("x")
X = symbol("X")
l = symbol("l")
Y = symbol("Y")

LOCAL_SAMPLES = group(B / N)  # samples of one worker
OWNED_IDS = group(B * m / N)  # ids of the global batch whose rows one worker owns, mean
OWNED_ROWS = group(U / N)  # distinct rows of the global batch that one worker owns, mean
BAG = tight_sum(WF, E)  # floats of a pooled field vector, with what its bag carries beside, mean over fields
ROW_AND_STATE = group(W * sr + O * so)  # bytes of a row with its optimizer state
BAG_TERM = tight_sum(Wm, E)  # floats that an id adds to its bag, mean over ids
EVEN_SHARE = 1 / N  # share of rows that a worker owns when they are spread by hash
OWNED_VOCABULARY = V / N  # rows of all tables that one worker holds when each row lives on one worker
COUNTS = N * 8  # bytes of one 64-bit count for each worker
