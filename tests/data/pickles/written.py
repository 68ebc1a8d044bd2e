"""The same content as other Pythons and numpys wrote it: name -> zlib, base64.

Written by cPickle, pickle where there is none, of a dict of arrays, lists and text; the last item
of a name is the protocol.
"""

WRITTEN = {
    "python2.7-numpy1.16-protocol0": (
        "eNqVVdtq20AQfZ/PKAH5pWZvukFp/FAKguBATfMkcFc3R0WxhCwTG/rD/YvOSGt5HUdua1jbO9dzZnZ2Z1nD"
        "YeV0rS63DjQC0rSuqjztynq7g8c2y9s8+1KmHTQSZrOqUYBfLrqUGdp7oHHr41bfre84SgLQKydxQGvShKhp"
        "9eu6yw8dKjnr7TmHp+ffVVWjRIB+iveq8Fi8Z4xpFEnjzBV6J8cu35GrS4FTXcSHPIwPjMXb2PkQx6RCFL19"
        "j2OflTUJEUi63b80x3lat/n8ZV91pW5bfYR1m6fIrmv3RIuHMBsMYZsNBo1gMIsYdD2T7lsjOO6HFQmIJHTG"
        "I+uOTY72AmYrp1AOoBcakQuWCw1XzicHlstl9BFdaWHUJGIMFT2Jd1fA7m3BYvyzsG2sjWYLxJn0VRBUtaJu"
        "saV9R7FuG+K4uSLlGVIDo40hEdgk/Fsk+E0Sf13BYlpZXFbgcnG2uBX6hpIrq04Bwn/WVUFFCqeKJNlYpLFC"
        "wqqQ5P/S5mBIn7IxuxSo2r3qpslpjqScBKAMgHOLSvucSdcA+Pz/56xf/M1enDF6dJIqvaH5k/4kwuCqRAm3"
        "EYYG4a8bCHsUY2ZFUnNnKD6VWImrxN/t3qg3IxhApAC/T2m1zTyxN6m9+fF4+nfGN95M6/7GIJiTc6a8K5ir"
        "C5j+ZX0Eya3q6CS9TE4Ht05+4iVNjVGTZ9c9nV01Jn60p9vl7zfGkyY33fR0TjVe50uNpvrpANrAcMkzf2k6"
        "Yu+qSRCuAcHMLSNhoDXycemYbettTnEmT5kbjHEwiH8VhF6aXaor3VJRvOGh8ThMvAGDKRoKyiUvxiRl931K"
        "j4ZyMBjmzi6ep6YHn4IVGa5iag3x3VN8GZopGOSeeQA9etAQf5IPpIKBVEgQdMRZGLqce8L3ffTA7G8EEkuk"
        "Ix9fVdarQX8Vc8xJNzf284Gzqc+DAeD3c7hvKuqNj172g9H4CL3DH3qvEbavYDf/A9gFK/M="
    ),
    "python2.7-numpy1.16-protocol2": (
        "eNp1lFtPE0EUx2fbRcqCCoKA4hVRFoVKESgo0qog0I0lwUzCg5u6l6lbs3R7tttAE014KRfffefVD2FC4lfx"
        "xTe/gMGzs1uaTei0Z6eTPfM7/3PmTPdjX0GgHZ6rlcoQMwzHtpnhlZxyVdp0TeYyc6VkeBLEVRBlFTpkGiuZ"
        "cEmFTpl2aGOFsRQkqKAzpkKXTBOutlvw2J4Hkgrd8vYlQoj164dtO9CzLeLi988TCS773ldwv173WBWu0i5D"
        "K/4h0vjoB+jFV30+umaWHLhmlGs7lXrScFyW3KnZXklzXa0uFVxmoETPrfna+gMvqWwGb2FAIQ0UdbgF12VF"
        "wE9MiR+GTqZXrzAJBmmsOKsQRUCnIVmJU2Epn8/nznDwh0I8/ZgOEz72M/jI4hdtH+0k6+moc1imnUXHxdqV"
        "4YbVb7XC3pSDoAeWH2chjDPSJs4RnSaRkcgG899MMPeGaxLOA0H8WzIVLc0uwu1I8Ds8eIOHnglD322bokgW"
        "yCnH3cN0qrtapcJMuB8hjvrEOCeWmkV7wInLFxB7QrECWoyTx/BAi7b2qQoPI9xHLaV6KuSOc+6XC7gxgXCa"
        "jGnzHpuIwB63YLSZ9pPztJWEIioJH9OroS4dzUD7uEkC6KRMu3k7FngPwVSEnWyx3zfZT8+F4kkLYTE13Qh4"
        "01hMR/+Md6kKqQhrxmeJnLXZ7IxnFyWdQaIKszIVtLwS3/bLucc4fA7ryXYqXh3mI+i0jyZ+2w0d00DHAhar"
        "7JQZLEY8n3PPhjXS9HvhH76h2ZpbhSUVXsptbl7gI8GyNYStQ04zB1uQsZZ5azSzybZpNpr4dxYM3PQKN41T"
        "QcCfr/3/gzcoAEPqDAWsqLCKAjdS04uLc6nU/Ew6nZ6XNqai63eTQq7SJxDOX8uKQdcd5b9145RbFwYGv68m"
        "fPRbLJdXq9gM1sJrCesTh7DBWGMLctXkf658ii0="
    ),
    "python3.6-numpy1.13-protocol4": (
        "eNqFVMFq20AQ3XXkxNg5JNQNuRTSEmgDwTSlBx9KbVBLS0RtaOmtxV1J60pFloQskZi24EvsOOwtk3uu+YhC"
        "IL/SD+gPFHe0K0Ncy2Sl0WjZ2fdmZmd2qF1cakSOnyCKccRcH0TFCjyPW7Eb+H2ctSObR9x+5VoxnMPee3gi"
        "Cq4Nn1EX2W5n9wAENYGLUsSOOjE/juXSqnNz5XkBCO33r8syLhfNQcwRr2yx7s0VKT9+9AkpWWK7aHTfT3rh"
        "oGYFEa/1Ei92WRSxAYj1TsQtdCOOEskuitIQxJpvK5NzMMgJ6OjBGNA1g+JTMFbG4FRF0Y4HIU+3FbrP0c6g"
        "ymZF0BfQarUOpzjkxyAxmBN9W+Vi2MBPE1+UIcplE3BZrHWDCFPkg3PP2UpZne0ZJzKOwHmAPPXbPM7DRZZT"
        "/SmZG6Wm0n8aSm9kc5LpqmLXHOZ186hPFPGzu4gnukbq5FqF0j9iYcjtHLwVhef+l7CXuQlbz1ylKAWJXOx6"
        "7Gt/uZ/mwTzuj1zcAiUqaFlPS8E+LgZtlAzNKEmQDYZemSgWypc2UZAVWYcdVT1LkT/MI7dT5AIuZ4lkpqXQ"
        "1gLzG7ZKXsCaQmrXF5BuhdtI8dJ+oQxaaT6Ogcs08l4Y5/lHZKXtTPQsQX7g8zwznOxPnO/qsC3msaif9qWz"
        "KVbVFNvC2cGSINcNGOEuZySP/c761Ut/p2rMtrV0SuU/x7ZMeiZXVAY9W1XFkenpu316GG5SIsHeNLOb57R1"
        "VkF1+JZWty5el/CmiJPQ4zBrq70xJP3aP+WppzI="
    ),
    "python3.11-numpy1.26-protocol5": (
        "eNqFlM1u00AQx+3Ubq20hwItoCJxQEWkEqpaxKEHRCLCl2qRSiBOgMLaXmMjx7Y2a7VBIOXSpKn21mnPvfYh"
        "kCr1VXgAXgCF8W5SkiiiK4/H613//rOzs26bxz1Dk+0HCJMzEsYg5t0kiqjLwyRuYm+HeZRR73nocjiCtbdQ"
        "EoXQg0/oTbJaX90EoTtAhcXIbp3TPS6HZoOLsyhKQBi/fp4Wcdh0Wpwir+gS/+JMKz649xElSeaFOOl6nDXS"
        "1rqbMLqOj5SFLirXfZY0nMz3KUPl0sltbbS1y3ir4IXWRjutIE9y0Hu8lVL8SBT8x9A76AKGbc8I/QnUarXt"
        "PjZ5szUOjq3bBXumi8uoAseJYs5PGOYihuBG6WRDm9asivK/y8ovDvrawC9VILiF4lv/xIM7U6RRuIPCL5Ww"
        "EZDIl6rGUGhLO1ekR1eR9iG4q8Jv7pI0pZ4ELYzHraMVJDAcy8vTaXmZuUSafkS+NCWwcEmSGGdzFPMd/huZ"
        "IcsjpywOKATNQXPRPu9oivl+cq22ZRu2Nc6al/VUJ4yR1ljKiOMqzLtRTDXHFHCrJ5OVOF+x1rEwl0dqsJFF"
        "PFRosVBn1MWjwFkmT0CwLOZiTw0ega3tQxXrX+notrEvtXe2JrRHklLGCHr5GdEJ1PKs7QHFV8KkjZSrtQy3"
        "C4IVW8tLZJjAOInpxIz7eQiXW++SiLBmfgSDD2JWdfOgV6qYn/MydHBa8E0WwBW1WbX+9FUbfvSsquvymWIG"
        "soZDlZCtH86qkhj4/puH+nZ6Tdck7FVlsDMHtcN5dNuv9aWbxy8s/CXwLI0oqPPXgbUuZM31v/NWmOI="
    ),
}
