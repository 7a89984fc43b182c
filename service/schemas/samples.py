"""A real picture for the examples of the API: a drawn scene of the bundled world, as base64 WebP."""

SAMPLE_IMAGE = (
    "UklGRmoBAABXRUJQVlA4IF4BAAAQCACdASogACAAPm0ukkakIqGhMBgIAIANiWwAw5SAc1sAB/pOoz59L2Vf2WfuyQB15M1H0MBu"
    "f4vP4jHJBCHf9i3ddGsCzbMgAP7/ZKD/RC377xKjDizGZKEJTokDx2io0sb5E898gGwm4ozWCG+oe0oCTf0bfofEGV6i0vAfBaiV"
    "LfvdlA5zP0qJs+drbi1WxIZxBx9KBFHnOPQqn32JkQt/rbrBJi3ngh632WDc5Lja+OnQemWSpgUkeodgjKRnPr4ziTCieile0O2H"
    "5FjakW2h4leBkOda7BHpd7V/EFRSWafSi4RFg/hz/2vd4doJEZPUQZGE9E5B8yIryGaCE8MZsL83h18+56ePzifKGe1suqK94Lne"
    "ypVKM9eZuMMov7MfTC/XoRFeg7bYG5XHYzrr6ayPOqLBLksCXtOzjHWQNnFHBTM9ZvCSNd82qroPTDtViVBNyF0LEAAAAA=="
)
